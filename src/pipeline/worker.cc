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
#include "pipeline/sampler.h"
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
    : ctx_(ctx), process_(process), leads_(leads), parallelism_(parallelism), groups_(world, parallelism) {
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
  states_.clear();
  stages_.clear();
  result_.resolved = resolved;
  progress_ = &progress;
  const CancelWatch watch(ctx_, progress.cancel);
  std::optional<CancelWatch> process_watch;
  if (leads_) process_watch.emplace(process_.ctx, progress.cancel);
  result_.report.weight_bytes = process_.parts.weight_bytes();
  const Captions captions = share_captions(make_captions());
  enter_stage("denoise");
  timed("denoise", ctx_, [&] { denoise(captions, progress); });
  if (process_.release_parts) {
    load([&] {
      process_.parts.release_transformer();
      process_.parts.autoencoder(process_.ctx);
    });
  }
  enter_stage("decode");
  timed("vae_decode", ctx_, [&] { decode(); });
  if (process_.release_parts) {
    groups_.world().barrier();
    if (leads_) process_.parts.release_autoencoder();
  }
  ctx_.synchronize("report");
  report_times();
  report_ranks();
  if (!is_root()) result_.pictures.clear();
  return std::move(result_);
}

Tensor Worker::encode(const std::string& prompt, bool& truncated) {
  const PromptTokens tokens = process_.parts.tokenize(prompt);
  truncated = tokens.truncated;
  if (tokens.truncated) log_warning("the prompt was cut to its first {} tokens", tokens.ids.size());
  const qwen3::Encoder& encoder = process_.parts.encoder(process_.ctx);
  Tensor features(process_.ctx.device(), DType::f32,
                  {static_cast<int64_t>(tokens.ids.size()), encoder.config().hidden});
  encoder.encode(process_.ctx, tokens.ids, features);
  return features;
}

Worker::Captions Worker::make_captions() {
  const GenerationRequest& request = result_.resolved.request;
  ModelParts& parts = process_.parts;
  Captions features;
  if (process_.release_parts) {
    load([&] {
      if (is_root()) parts.encoder(process_.ctx);
    });
  }
  enter_stage("text");
  if (is_root()) {
    timed("text_encoder", process_.ctx, [&] {
      features.positive = encode(request.prompt, result_.prompt_truncated);
      bool negative_truncated = false;
      if (*request.guidance_scale > 0) features.negative = encode(request.negative_prompt, negative_truncated);
    });
  }
  if (process_.release_parts) {
    load([&] {
      parts.release_encoder();
      parts.transformer(process_.ctx);
    });
  }
  if (!is_root()) return {};
  const zimage::Transformer& transformer = parts.transformer(process_.ctx);
  const auto refine = [&](const Tensor& of) {
    if (!of) return Tensor{};
    Tensor caption(process_.ctx.device(), DType::f32,
                   {zimage::padded_tokens(of.shape()[0]), transformer.config().hidden});
    transformer.refine(process_.ctx, of, caption);
    return caption;
  };
  Captions captions;
  timed("text_encoder", process_.ctx, [&] { captions = {refine(features.positive), refine(features.negative)}; });
  // What follows is ordered with the rank's own work.
  if (&process_.ctx != &ctx_) process_.ctx.synchronize("captions");
  return captions;
}

Worker::Captions Worker::share_captions(Captions captions) {
  Communicator& world = groups_.world();
  std::array<int64_t, 2> rows{};
  const std::array<Tensor*, 2> tensors{&captions.positive, &captions.negative};
  if (is_root()) rows = {captions.positive.shape()[0], captions.negative ? captions.negative.shape()[0] : 0};
  world.broadcast(host_bytes(std::span<int64_t>(rows)), kRoot).wait();
  for (size_t side = 0; side < tensors.size(); ++side) {
    if (rows[side] == 0) continue;
    Tensor& caption = *tensors[side];
    if (!is_root())
      caption = Tensor(ctx_.device(), DType::f32, {rows[side], process_.parts.transformer_config().hidden});
    world.broadcast({caption.view().bytes(), caption.size_in_bytes(), ctx_.device()}, kRoot).wait();
  }
  return captions;
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

void Worker::denoise(const Captions& captions, const Progress& progress) {
  const GenerationRequest& request = result_.resolved.request;
  RunReport& report = result_.report;
  ModelParts& parts = process_.parts;
  const zimage::Transformer& transformer = parts.transformer(ctx_);
  const zimage::Config& config = transformer.config();
  const int64_t scale = parts.vae_config().scale();
  const Shape latent_shape{config.in_channels, result_.resolved.drawn_height / scale,
                           result_.resolved.drawn_width / scale};
  const nn::SequenceRanks& ranks = groups_.sequence();
  const nn::SequenceParallel picture(
      ranks,
      parallel::make_plan({.grid = {latent_shape[1] / config.patch, latent_shape[2] / config.patch},
                           .ranks = ranks.all().world(),
                           .kind = parallelism_.plan,
                           .heads = config.heads,
                           .patch = config.patch}),
      config.head_dim());
  const Schedule schedule = request.sigmas.empty()
                                ? make_schedule(parts.scheduler_config(), *request.num_inference_steps)
                                : make_schedule(parts.scheduler_config(), request.sigmas);
  Sampler& sampler = sampler_.emplace(
      ctx_, transformer, schedule,
      Guidance{static_cast<float>(*request.guidance_scale), static_cast<float>(request.cfg_normalization),
               static_cast<float>(request.cfg_truncation)},
      picture, groups_.halves(), captions.positive.view(), captions.negative.view());
  report.arena_bytes = sampler.arena_bytes();
  report.transformer_flop = sampler.step_flop();
  report.transformer_rows = sampler.rows();
  const int64_t steps = static_cast<int64_t>(schedule.times.size());
  for (int64_t i = 0; i < request.num_outputs; ++i) {
    Picture made;
    made.seed = request.seed + static_cast<uint64_t>(i);
    made.latents = Tensor(Device{}, DType::f32, {1, latent_shape[0], latent_shape[1], latent_shape[2]});
    const View latents = made.latents.view().reshape(latent_shape);
    fill_noise(made.seed, latents);
    Tensor& state = states_.emplace_back(ctx_.device(), DType::f32, latent_shape);
    upload(ctx_, latents, state);
    sampler.run(state, [&](int64_t step, double step_ms) {
      if (is_root() && progress.on_step) progress.on_step(i * steps + step, request.num_outputs * steps, step_ms);
    });
    download(ctx_, state, latents);
    result_.pictures.push_back(std::move(made));
  }
  const int place = ranks.place_of(ranks.all().rank());
  report.ranks = {{groups_.world().rank(), picture.image_tokens(),
                   parallel::split(config.heads, ranks.ulysses().world())[static_cast<size_t>(place)].count, 0}};
}

void Worker::decode() {
  Communicator& world = groups_.world();
  const autoencoder_kl::Autoencoder& vae = process_.parts.autoencoder(ctx_);
  const int64_t scale = vae.config().scale(), drawn_height = result_.resolved.drawn_height,
                drawn_width = result_.resolved.drawn_width;
  const int64_t height = drawn_height / scale, width = drawn_width / scale;
  const nn::RowShards shards(world, height);
  Arena measure(ctx_.device());
  vae.take_decode_scratch(measure, shards, height, width);
  Arena arena(ctx_.device(), measure.peak_bytes());
  const autoencoder_kl::Scratch scratch = vae.take_decode_scratch(arena, shards, height, width);
  const Shape own_shape{shards.local(scale).count, drawn_width, 3};
  Tensor decoded(ctx_.device(), DType::f32, own_shape), quantized(ctx_.device(), DType::u8, own_shape);
  Tensor own_pixels(Device{}, DType::u8, own_shape);
  Tensor pixels(Device{}, DType::u8, {is_root() ? drawn_height : 0, drawn_width, 3});
  const std::vector<parallel::Range> rows = parallel::split(height, world.world());
  for (size_t i = 0; i < result_.pictures.size(); ++i) {
    Picture& picture = result_.pictures[i];
    vae.decode(ctx_, shards, states_[i], scratch, decoded);
    ops::to_pixels(ctx_, decoded, quantized);
    download(ctx_, quantized, own_pixels);
    ctx_.synchronize("picture");
    std::vector<ReceiveFrom> receives;
    for (int peer = 0; is_root() && peer < world.world(); ++peer) {
      const parallel::Range& range = rows[static_cast<size_t>(peer)];
      const View part = pixels.view().rows(range.begin * scale, range.count * scale);
      receives.push_back({peer, {part.bytes(), part.size_in_bytes(), Device{}}});
    }
    const std::vector<SendTo> sends{{kRoot, {own_pixels.view().bytes(), own_pixels.size_in_bytes(), Device{}}}};
    world.exchange("pixels", sends, receives).wait();
    if (!is_root()) continue;
    const GenerationRequest& request = result_.resolved.request;
    picture.image = crop_evenly(pixels.view(), *request.height, *request.width);
  }
  result_.report.arena_bytes = std::max(result_.report.arena_bytes, arena.peak_bytes());
  result_.report.peak_host_bytes = peak_resident_bytes();
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
