// Implements a rank's part in a generation. The ranks meet for the captions and the noise, which rank 0 makes, in every
// attention layer, for the final state, in the decoder, and for the pixels, which come home to rank 0.
#include "pipeline/worker.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "nn/row_shards.h"
#include "ops/patches.h"
#include "pipeline/noise.h"
#include "pipeline/step_orders.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

constexpr int kRoot = 0;

/// Lets a context watch a cancel flag for as long as a generation runs.
class CancelWatch {
 public:
  CancelWatch(Context& ctx, const std::atomic<bool>* flag) : ctx_(ctx) { ctx_.watch_cancel(flag); }
  ~CancelWatch() { ctx_.watch_cancel(nullptr); }
  CancelWatch(const CancelWatch&) = delete;
  CancelWatch& operator=(const CancelWatch&) = delete;

 private:
  Context& ctx_;
};

size_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return static_cast<size_t>(std::stoull(line.substr(6))) * 1024;
  }
  return 0;
}

/// Fills `latents` from the file that the request names. \param latents f32 [channels, height, width]
void read_latents(const std::filesystem::path& path, View latents) {
  const SafetensorsFile file(path);
  const ConstView given = file.tensor("latents");
  const Shape& shape = latents.shape();
  const Shape wanted{1, shape[0], shape[1], shape[2]};
  require(given.dtype() == DType::f32 && given.shape() == wanted, ErrorKind::invalid_input,
          "{}: tensor 'latents' is {} {}, this size wants F32 {}", path.string(), name(given.dtype()),
          to_string(given.shape()), to_string(wanted));
  std::memcpy(latents.bytes(), given.bytes(), given.size_in_bytes());
}

/// \return the middle of `drawn` [drawn height, drawn width, 3], of the asked size.
Image crop_evenly(ConstView drawn, int64_t height, int64_t width) {
  const int64_t drawn_width = drawn.shape()[1];
  const int64_t top = (drawn.shape()[0] - height) / 2, left = (drawn_width - width) / 2;
  Image image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (int64_t y = 0; y < height; ++y) {
    std::memcpy(image.rgb.data() + y * width * 3, drawn.data<uint8_t>() + ((top + y) * drawn_width + left) * 3,
                static_cast<size_t>(width * 3));
  }
  return image;
}

}  // namespace

Worker::Worker(Context& ctx, Communicator& world, const Parallelism& parallelism, WorkerProcess process, bool leads)
    : ctx_(ctx),
      process_(process),
      leads_(leads),
      parallelism_(parallelism),
      groups_(world, parallelism),
      memory_(ctx.state<RankMemory>()) {
  world.order_with(ctx.stream());
}

template <class Work>
void Worker::timed(const char* stage, Context& ctx, const Work& work) {
  Stopwatch watch(ctx);
  work();
  watch.end(ctx);
  stages_.emplace_back(stage, std::move(watch));
}

template <class Load>
void Worker::load(const Load& load) {
  enter_stage("load");
  timed("load", process_.ctx, [&] {
    groups_.world().barrier();  // nobody uses any more what is released
    if (leads_) {
      load();
      result_.report.weight_bytes = std::max(result_.report.weight_bytes, process_.parts.weight_bytes());
    }
    groups_.world().barrier();
  });
}

void Worker::enter_stage(const char* name) {
  if (is_root() && progress_->on_stage) progress_->on_stage(name);
}

Generation Worker::draw(const ResolvedRequest& resolved, const Progress& progress) {
  const bool guided = *resolved.request.guidance_scale > 0;
  require(guided || parallelism_.cfg == 1, ErrorKind::invalid_input,
          "--cfg-parallel-degree {} splits the two halves of guidance, and --guidance-scale 0 has one: use "
          "--cfg-parallel-degree 1, or guidance",
          parallelism_.cfg);
  result_ = {};
  stages_.clear();
  result_.resolved = resolved;
  progress_ = &progress;
  const CancelWatch watch(ctx_, progress.cancel);
  std::optional<CancelWatch> process_watch;
  if (leads_) process_watch.emplace(process_.ctx, progress.cancel);
  result_.report.weight_bytes = process_.parts.weight_bytes();
  try {
    plan();
    make_captions();
    enter_stage("denoise");
    timed("denoise", ctx_, [&] { denoise(); });
    decode();
  } catch (...) {
    // What is under way would write into the memory of the next drawing, and into results that are gone.
    if (leads_) process_.ctx.abandon_work();
    ctx_.abandon_work();
    memory_.release();
    throw;
  }
  report_times();
  report_ranks();
  if (process_.release_parts) memory_.release();
  if (!is_root()) result_.pictures.clear();
  return std::move(result_);
}

void Worker::plan() {
  const GenerationRequest& request = result_.resolved.request;
  const ModelParts& parts = process_.parts;
  const zimage::Config& config = parts.transformer_config();
  std::array<int64_t, 2> tokens{};
  if (is_root()) {
    prompts_ = {tokenize(request.prompt), {}};
    result_.prompt_truncated = prompts_[kPositive].truncated;
    if (*request.guidance_scale > 0) prompts_[kNegative] = tokenize(request.negative_prompt);
    for (const Side side : {kPositive, kNegative}) tokens[side] = static_cast<int64_t>(prompts_[side].ids.size());
  }
  groups_.world().broadcast(host_bytes(std::span<int64_t>(tokens)), kRoot).wait();

  const Shape latent = latent_shape();
  const nn::SequenceRanks& ranks = groups_.sequence();
  plan_ = SamplerPlan{
      .picture = nn::SequenceParallel(ranks,
                                      parallel::make_plan({.grid = {latent[1] / config.patch, latent[2] / config.patch},
                                                           .ranks = ranks.all().world(),
                                                           .kind = parallelism_.plan,
                                                           .heads = config.heads,
                                                           .patch = config.patch}),
                                      config.head_dim()),
      .halves = groups_.halves(),
      .schedule = request.sigmas.empty() ? make_schedule(parts.scheduler_config(), *request.num_inference_steps)
                                         : make_schedule(parts.scheduler_config(), request.sigmas),
      .guidance = {static_cast<float>(*request.guidance_scale), static_cast<float>(request.cfg_normalization),
                   static_cast<float>(request.cfg_truncation)},
      .caption_tokens = {zimage::padded_tokens(tokens[kPositive]), zimage::padded_tokens(tokens[kNegative])}};
  const DrawingShape shape{&parts,
                           parallelism_,
                           groups_.world().rank(),
                           latent[1],
                           latent[2],
                           request.num_outputs,
                           plan_->steps(),
                           plan_->caption_tokens,
                           plan_->guidance.scale,
                           plan_->guidance.normalization};
  views_ = memory_.lay_out(shape, [&](Arena& arena) { return take_views(arena); });
  result_.report.arena_bytes = memory_.bytes();
}

Worker::Views Worker::take_views(Arena& arena) const {
  const ModelParts& parts = process_.parts;
  const zimage::Config& config = parts.transformer_config();
  const DType dtype = parts.dtype();
  Views views;
  for (const Side side : {kPositive, kNegative}) {
    if (plan_->caption_tokens[side] == 0) continue;
    views.captions[side] = take(arena, DType::f32, {plan_->caption_tokens[side], config.hidden});
  }
  for (int64_t i = 0; i < result_.resolved.request.num_outputs; ++i)
    views.states.push_back(take(arena, DType::f32, latent_shape()));
  views.sampler = SamplerMemory::take(arena, config, dtype, *plan_);
  views.preview = PreviewMemory::take(arena, config, *plan_);

  // From here on the stages share the memory: each begins when the one before is done with it.
  const size_t stages = arena.used_bytes();
  if (is_root()) take_text_views(arena, views);
  arena.rewind(stages);
  views.sampler.take_scratch(arena, config, dtype, *plan_);
  arena.rewind(stages);
  if (!process_.release_parts) views.decoder = take_decoder_views(arena);
  return views;
}

Worker::DecoderViews Worker::take_decoder_views(Arena& arena) const {
  const autoencoder_kl::Autoencoder& vae = process_.parts.autoencoder(ctx_);
  const Shape latent = latent_shape();
  const nn::RowShards shards(groups_.world(), latent[1]);
  const Shape pixels{shards.local(vae.config().scale()).count, result_.resolved.drawn_width, 3};
  return {take(arena, DType::f32, pixels), take(arena, DType::u8, pixels),
          vae.take_decode_scratch(arena, shards, latent[1], latent[2])};
}

void Worker::take_text_views(Arena& arena, Views& views) const {
  const ModelParts& parts = process_.parts;
  const std::array<int64_t, 2> tokens{static_cast<int64_t>(prompts_[kPositive].ids.size()),
                                      static_cast<int64_t>(prompts_[kNegative].ids.size())};
  for (const Side side : {kPositive, kNegative})
    views.features[side] = take(arena, DType::f32, {tokens[side], parts.encoder_config().hidden});
  const size_t mark = arena.used_bytes();
  for (const Side side : {kPositive, kNegative}) {
    if (tokens[side] == 0) continue;
    arena.rewind(mark);
    views.encoder[side] = qwen3::Scratch::take(arena, parts.encoder_config(), tokens[side], parts.dtype());
    arena.rewind(mark);
    views.refiner[side] = zimage::RefineScratch::take(arena, parts.transformer_config(), tokens[side], parts.dtype());
  }
}

Shape Worker::latent_shape() const {
  const int64_t scale = process_.parts.vae_config().scale();
  return {process_.parts.transformer_config().in_channels, result_.resolved.drawn_height / scale,
          result_.resolved.drawn_width / scale};
}

PromptTokens Worker::tokenize(const std::string& prompt) const {
  PromptTokens tokens = process_.parts.tokenize(prompt);
  if (tokens.truncated) log_warning("the prompt was cut to its first {} tokens", tokens.ids.size());
  return tokens;
}

void Worker::make_captions() {
  ModelParts& parts = process_.parts;
  Context& ctx = process_.ctx;
  const auto each_side = [&](const auto& work) {
    if (!is_root()) return;
    timed("text_encoder", ctx, [&] {
      for (const Side side : {kPositive, kNegative})
        if (plan_->caption_tokens[side] > 0) work(side);
    });
  };
  if (process_.release_parts) {
    load([&] {
      if (is_root()) parts.encoder(ctx);
    });
  }
  enter_stage("text");
  each_side([&](Side side) {
    parts.encoder(ctx).encode(ctx, prompts_[side].ids, views_.encoder[side], views_.features[side]);
  });
  if (process_.release_parts) {
    load([&] {
      parts.release_encoder();
      parts.transformer(ctx);
    });
  }
  each_side([&](Side side) {
    parts.transformer(ctx).refine(ctx, views_.features[side], views_.refiner[side], views_.captions[side]);
  });
  // What follows is ordered with the rank's own work.
  if (is_root() && &ctx != &ctx_) ctx.synchronize("captions");
  for (const View& caption : views_.captions)
    if (caption) groups_.world().broadcast({caption.bytes(), caption.size_in_bytes(), ctx_.device()}, kRoot).wait();
}

void Worker::fill_noise(uint64_t seed, View latents) {
  const GenerationRequest& request = result_.resolved.request;
  if (is_root()) {
    if (request.latents.empty())
      fill_normal(request.rng, seed, {latents.data<float>(), static_cast<size_t>(latents.elements())});
    else
      read_latents(request.latents, latents);
  }
  groups_.world().broadcast({latents.bytes(), latents.size_in_bytes(), Device{}}, kRoot).wait();
}

void Worker::denoise() {
  const GenerationRequest& request = result_.resolved.request;
  RunReport& report = result_.report;
  const zimage::Transformer& transformer = process_.parts.transformer(ctx_);
  const std::array<ConstView, 2> captions{views_.captions[kPositive], views_.captions[kNegative]};
  Sampler& sampler = sampler_.emplace(ctx_, transformer, *plan_, views_.sampler, captions, memory_.left());
  report.transformer_flop = sampler.step_flop();
  report.transformer_rows = sampler.rows();
  StepOrders orders(groups_.world(), *progress_);
  std::optional<Previewer> previewer;
  if (orders.has_previews()) {
    check(!process_.release_parts, "previews want the VAE beside the transformer");
    previewer.emplace(
        ctx_, *plan_, views_.sampler,
        views_.preview, [this]() -> const auto& { return process_.parts.autoencoder(ctx_); },
        is_root() ? progress_->on_preview : nullptr);
  }
  const Shape shape = latent_shape();
  for (int64_t i = 0; i < request.num_outputs; ++i) {
    Picture& made = result_.pictures.emplace_back();
    made.seed = request.seed + static_cast<uint64_t>(i);
    made.latents = Tensor(Device{}, DType::f32, {1, shape[0], shape[1], shape[2]});
    const View latents = made.latents.view().reshape(shape), state = views_.states[static_cast<size_t>(i)];
    fill_noise(made.seed, latents);
    upload(ctx_, latents, state);
    sampler.run(state, [&](int64_t step, double step_ms) {
      const int64_t of_all = i * plan_->steps() + step;
      if (previewer) previewer->arrived();
      if (is_root() && progress_->on_step) progress_->on_step(of_all, request.num_outputs * plan_->steps(), step_ms);
      if (orders.wants_preview(of_all, step == plan_->steps())) previewer->after_step(step - 1, of_all);
    });
    download(ctx_, state, latents);
  }
  const nn::SequenceRanks& ranks = groups_.sequence();
  const std::vector<parallel::Range> heads = parallel::split(transformer.config().heads, ranks.ulysses().world());
  report.ranks = {{groups_.world().rank(), plan_->picture.image_tokens(),
                   heads[static_cast<size_t>(ranks.place_of(ranks.all().rank()))].count, 0}};
}

void Worker::decode() {
  Arena late(ctx_.device());
  if (process_.release_parts) {
    load([&] {
      process_.parts.release_transformer();
      process_.parts.autoencoder(process_.ctx);
    });
    take_decoder_views(late);
    late = Arena(ctx_.device(), late.peak_bytes());
    views_.decoder = take_decoder_views(late);
    result_.report.arena_bytes = std::max(result_.report.arena_bytes, late.peak_bytes());
  }
  enter_stage("decode");
  const autoencoder_kl::Autoencoder& vae = process_.parts.autoencoder(ctx_);
  const nn::RowShards shards(groups_.world(), latent_shape()[1]);
  std::vector<Tensor> own_pixels;  // this rank's rows of each picture
  timed("vae_decode", ctx_, [&] {
    for (const View& state : views_.states) {
      const auto& [decoded, quantized, scratch] = views_.decoder;
      vae.decode(ctx_, shards, state, scratch, decoded);
      ops::to_pixels(ctx_, decoded, quantized);
      download(ctx_, quantized, own_pixels.emplace_back(Device{}, DType::u8, quantized.shape()));
    }
  });
  ctx_.synchronize("pictures");
  for (size_t i = 0; i < own_pixels.size(); ++i) gather_picture(own_pixels[i], result_.pictures[i]);
  result_.report.peak_host_bytes = peak_resident_bytes();
  if (process_.release_parts) {
    groups_.world().barrier();
    if (leads_) process_.parts.release_autoencoder();
  }
}

void Worker::gather_picture(ConstView own_pixels, Picture& picture) {
  Communicator& world = groups_.world();
  const int64_t scale = process_.parts.vae_config().scale();
  Tensor pixels(Device{}, DType::u8, {is_root() ? result_.resolved.drawn_height : 0, result_.resolved.drawn_width, 3});
  const std::vector<parallel::Range> rows = parallel::split(latent_shape()[1], world.world());
  std::vector<ReceiveFrom> receives;
  for (int peer = 0; is_root() && peer < world.world(); ++peer) {
    const parallel::Range& range = rows[static_cast<size_t>(peer)];
    const View part = pixels.view().rows(range.begin * scale, range.count * scale);
    receives.push_back({peer, {part.bytes(), part.size_in_bytes(), Device{}}});
  }
  const std::vector<SendTo> sends{{kRoot, {own_pixels.bytes(), own_pixels.size_in_bytes(), Device{}}}};
  world.exchange("pixels", sends, receives).wait();
  if (!is_root()) return;
  const GenerationRequest& request = result_.resolved.request;
  picture.image = crop_evenly(pixels.view(), *request.height, *request.width);
}

void Worker::report_times() {
  RunReport& report = result_.report;
  for (const auto& [name, watch] : stages_) {
    const auto known = std::ranges::find(report.stages, name, &StageTime::name);
    if (known == report.stages.end())
      report.stages.push_back({name, watch.ms()});
    else
      known->ms += watch.ms();
  }
  for (const Stopwatch& step : sampler_->steps()) report.step_ms.push_back(step.ms());
  sampler_.reset();
}

void Worker::report_ranks() {
  Communicator& world = groups_.world();
  RankReport own = result_.report.ranks.front();
  own.bytes_sent = world.traffic().bytes;
  std::vector<RankReport>& all = result_.report.ranks;
  all.resize(static_cast<size_t>(world.world()));
  std::vector<Part> parts;
  for (size_t rank = 0; rank < all.size(); ++rank) parts.push_back({rank * sizeof(RankReport), sizeof(RankReport)});
  world.all_gather(host_bytes(std::span<const RankReport>(&own, 1)), host_bytes(std::span(all)), parts).wait();
}

}  // namespace nostos
