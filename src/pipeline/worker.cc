// Implements a rank's part in a drawing. The ranks meet for the captions and the noise that the host makes, both rank 0's,
// in every attention layer, for the final state, in the decoder, and for the pixels, which come home to rank 0.
#include "pipeline/worker.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/safetensors.h"
#include "nn/row_shards.h"
#include "ops/noise.h"
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

bool is_finite(ConstView values) {
  const float* const first = values.data<float>();
  return std::all_of(first, first + values.elements(), [](float value) { return std::isfinite(value); });
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
  require(is_finite(given), ErrorKind::invalid_input, "{}: tensor 'latents' has values that are no numbers",
          path.string());
  std::memcpy(latents.bytes(), given.bytes(), given.size_in_bytes());
}

int64_t sum(std::span<const int64_t> counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

/// \return the rows of `items` in `all`, where they stand one after the other, `counts` of each.
View rows_of(View all, std::span<const int64_t> counts, const Batch& items) {
  return all.rows(sum(counts.first(items.first)), sum(counts.subspan(items.first, items.count)));
}

Image black(int64_t height, int64_t width) {
  return {height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
}

View host_view(std::vector<int32_t>& values) {
  return {reinterpret_cast<std::byte*>(values.data()), DType::i32, {std::ssize(values)}};
}

/// \return rows of an image as u8 [count, width, 3].
View rows_of(Image& image, const parallel::Range& rows) {
  const View whole(reinterpret_cast<std::byte*>(image.rgb.data()), DType::u8, {image.height, image.width, 3});
  return whole.rows(rows.begin, rows.count);
}

/// \return the middle of `drawn`, of the asked size.
Image crop_evenly(Image drawn, int64_t height, int64_t width) {
  if (drawn.height == height && drawn.width == width) return drawn;
  const int64_t top = (drawn.height - height) / 2, left = (drawn.width - width) / 2;
  Image image = black(height, width);
  for (int64_t y = 0; y < height; ++y) {
    std::memcpy(image.rgb.data() + y * width * 3, drawn.rgb.data() + ((top + y) * drawn.width + left) * 3,
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
  world.device().order_with(ctx.stream());
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
      report_weights();
    }
    groups_.world().barrier();
  });
}

void Worker::enter_stage(const char* name) {
  if (!is_root()) return;
  for (const Progress& progress : progress_)
    if (progress.on_stage) progress.on_stage(name);
}

std::vector<Generation> Worker::draw(std::span<const ResolvedRequest> requests, std::span<const Progress> progress) {
  check(!requests.empty() && requests.size() == progress.size(), "each request has its progress");
  made_.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    check(draws_together(requests[i], requests.front()), "requests of one drawing share size and noise levels");
    for_request(i, requests.size(), [&] {
      require(*requests[i].request.guidance_scale > 0 || parallelism_.cfg == 1, ErrorKind::invalid_input,
              "--cfg-parallel-degree {} splits the two halves of guidance, and --guidance-scale 0 has one: use "
              "--cfg-parallel-degree 1, or guidance",
              parallelism_.cfg);
    });
    made_.emplace_back().resolved = requests[i];
  }
  progress_ = progress;
  steps_told_.assign(requests.size(), 0);
  stages_.clear();
  steps_.clear();
  to_keep_.clear();
  report_ = {};
  const uint64_t bytes_sent_before = groups_.world().traffic().bytes;
  // What blocks watch ends all ranks wherever they are; of several requests, ranks must agree on which go on.
  const std::atomic<bool>* const flag = requests.size() == 1 ? progress.front().cancel : nullptr;
  const CancelWatch watch(ctx_, flag);
  std::optional<CancelWatch> process_watch;
  if (leads_) process_watch.emplace(process_.ctx, flag);
  try {
    orders_.emplace(groups_.world(), progress, !process_.release_parts);
    plan();
    make_captions();
    enter_stage("denoise");
    timed("denoise", ctx_, [&] { denoise(); });
    decode();
  } catch (...) {
    // What is under way would write into the memory of the next drawing, and into results that are gone.
    memory_.forget();
    groups_.world().device().abandon_work(ctx_);
    if (leads_) process_.ctx.abandon_work();
    memory_.release();
    throw;
  }
  keep_captions();
  report_weights();
  report_times();
  report_ranks(groups_.world().traffic().bytes - bytes_sent_before);
  if (process_.release_parts) memory_.release();
  for (Generation& made : made_) {
    if (!is_root() || made.cancelled) made.pictures.clear();
    made.report = report_;
  }
  return std::move(made_);
}

const GenerationRequest& Worker::request_of(const PicturePlace& place) const {
  return made_[place.request].resolved.request;
}

Picture& Worker::picture_at(const PicturePlace& place) { return made_[place.request].pictures[place.index]; }

size_t Worker::caption_of(const Prompt& prompt) {
  const auto known = std::ranges::find(texts_, prompt);
  const auto caption = static_cast<size_t>(known - texts_.begin());
  if (known == texts_.end()) texts_.push_back(prompt);
  return caption;
}

std::vector<PicturePlan> Worker::plan_pictures() {
  std::vector<PicturePlan> plans;
  pictures_.clear();
  texts_.clear();
  for (size_t request = 0; request < made_.size(); ++request) {
    const GenerationRequest& r = made_[request].resolved.request;
    PicturePlan plan{.guidance = {static_cast<float>(*r.guidance_scale), static_cast<float>(r.cfg_normalization),
                                  static_cast<float>(r.cfg_truncation)}};
    plan.captions[kPositive] = caption_of({r.prompt, *r.max_sequence_length});
    if (plan.guidance.is_on()) plan.captions[kNegative] = caption_of({r.negative_prompt, *r.max_sequence_length});
    for (int64_t i = 0; i < r.num_outputs; ++i) {
      made_[request].pictures.emplace_back().seed = r.seed + static_cast<uint64_t>(i);
      pictures_.push_back({request, static_cast<size_t>(i)});
      plans.push_back(plan);
    }
  }
  return plans;
}

void Worker::tokenize() {
  text_tokens_.clear();
  caption_lengths_.assign(texts_.size(), 0);
  kept_.clear();
  if (is_root()) {
    for (size_t i = 0; i < texts_.size(); ++i) {
      const PromptTokens& tokens =
          text_tokens_.emplace_back(process_.parts.tokenize(texts_[i].text, texts_[i].max_tokens));
      caption_lengths_[i] = static_cast<int64_t>(tokens.ids.size());
      kept_.push_back(process_.captions != nullptr ? process_.captions->find(tokens.ids) : nullptr);
    }
    tell_truncated();
  }
  groups_.world().broadcast(host_bytes(std::span(caption_lengths_)), kRoot).wait();
  padded_captions_.clear();
  for (const int64_t length : caption_lengths_) padded_captions_.push_back(zimage::padded_tokens(length));
}

void Worker::tell_truncated() {
  for (size_t i = 0; i < made_.size(); ++i) {
    const GenerationRequest& request = made_[i].resolved.request;
    const auto is_truncated = [&](const std::string& text) {
      const auto known = std::ranges::find(texts_, Prompt{text, *request.max_sequence_length});
      return known != texts_.end() && text_tokens_[static_cast<size_t>(known - texts_.begin())].truncated;
    };
    made_[i].cut = {is_truncated(request.prompt), *request.guidance_scale > 0 && is_truncated(request.negative_prompt)};
    if (progress_[i].on_prompts) progress_[i].on_prompts(made_[i].cut);
  }
}

void Worker::plan() {
  std::vector<PicturePlan> pictures = plan_pictures();
  tokenize();
  const GenerationRequest& request = made_.front().resolved.request;
  const ModelParts& parts = process_.parts;
  const zimage::Config& config = parts.transformer_config();
  const Shape latent = latent_shape();
  const nn::SequenceRanks& ranks = groups_.sequence();
  SamplerPlan all{
      .share = nn::SequenceParallel(ranks,
                                    parallel::make_plan({.grid = {latent[1] / config.patch, latent[2] / config.patch},
                                                         .ranks = ranks.all().world(),
                                                         .kind = parallelism_.plan,
                                                         .heads = config.heads,
                                                         .patch = config.patch,
                                                         .pad_multiple = zimage::kTokenMultiple}),
                                    config.head_dim()),
      .halves = groups_.halves(),
      .world = &groups_.world(),
      .schedule = request.sigmas.empty() ? make_schedule(parts.scheduler_config(), *request.num_inference_steps)
                                         : make_schedule(parts.scheduler_config(), request.sigmas),
      .caption_tokens = padded_captions_,
      .pictures = std::move(pictures)};
  std::vector<int64_t> rows;
  for (size_t i = 0; i < all.pictures.size(); ++i) rows.push_back(all.rows_of(i));
  batches_ = batch_plan(rows, max_batch_rows(ctx_.device()));
  plans_.clear();
  for (const Batch& batch : batches_) {
    const auto first = all.pictures.begin() + static_cast<std::ptrdiff_t>(batch.first);
    SamplerPlan& plan = plans_.emplace_back(all);
    plan.pictures.assign(first, first + static_cast<std::ptrdiff_t>(batch.count));
    plan.passes_apart = batch.passes_apart;
  }
  const DrawingShape shape{&parts,    parallelism_, groups_.world().rank(), latent[1],
                           latent[2], all.steps(),  all.caption_tokens,     all.pictures};
  const auto make_room = [&](size_t bytes) {
    if (leads_) this->make_room(bytes);
  };
  views_ = memory_.lay_out(
      shape, [&](Arena& captions, Arena& rest) { return take_views(captions, rest); }, make_room);
  // Rank 0 alone holds the encoder's memory, and each rank has its own GPU's: one may have forgotten what others have
  // left, or stream what others keep. What is recorded is launched together, or nowhere.
  std::array<int64_t, 2> counts{!memory_.has_left(), parts.memory_plan().transformer.host_bytes > 0};
  groups_.world().all_reduce_sum(std::span<int64_t>(counts));
  const auto& [fresh, streaming] = counts;
  if (fresh > 0) memory_.forget();
  can_record_ = ctx_.device().kind == DeviceKind::cuda && groups_.world().device().can_record() && streaming == 0;
  for (SamplerPlan& each : plans_) each.can_record = can_record_;
  report_.arena_bytes = memory_.bytes();
}

void Worker::make_room(size_t scratch_bytes) {
  ModelParts& parts = process_.parts;
  const bool alone = &ctx_ == &process_.ctx;  // ranks that share the parts have contexts beside the process's own
  parts.make_room(process_.ctx, scratch_bytes, alone);
  if (process_.release_parts || parts.is_loaded(is_root())) return;
  enter_stage("load");
  timed("load", process_.ctx, [&] { parts.load(process_.ctx, is_root()); });
}

Worker::Views Worker::take_views(Arena& captions, Arena& arena) const {
  const ModelParts& parts = process_.parts;
  const zimage::Config& config = parts.transformer_config();
  const DType dtype = parts.dtype();
  Views views;
  views.captions = take(captions, DType::f32, {sum(padded_captions_), config.hidden});
  if (is_root()) take_text_views(captions, views);
  for (size_t i = 0; i < pictures_.size(); ++i) views.states.push_back(take(arena, DType::f32, latent_shape()));
  views.preview = PreviewMemory::take(arena, config, plans_.front());
  const size_t batches = arena.used_bytes();
  size_t stages = batches;
  for (const SamplerPlan& plan : plans_) {
    arena.rewind(batches);
    views.samplers.push_back(SamplerMemory::take(arena, config, dtype, plan));
    stages = std::max(stages, arena.used_bytes());
  }

  // From here on the stages share the memory: each begins when the one before is done with it.
  for (size_t i = 0; i < plans_.size(); ++i) {
    arena.rewind(stages);
    views.samplers[i].take_scratch(arena, config, dtype, plans_[i]);
  }
  arena.rewind(stages);
  if (!process_.release_parts) views.decoder = take_decoder_views(arena);
  return views;
}

Worker::DecoderViews Worker::take_decoder_views(Arena& arena) const {
  const autoencoder_kl::Autoencoder& vae = process_.parts.autoencoder(ctx_);
  const Shape latent = latent_shape();
  const nn::RowShards shards(groups_.world(), latent[1]);
  const Shape pixels{shards.local(vae.config().scale()).count, made_.front().resolved.drawn_width, 3};
  return {take(arena, DType::f32, pixels), take(arena, DType::u8, pixels),
          take(arena, DType::i32, {std::ssize(pictures_)}),
          vae.take_decode_scratch(arena, shards, latent[1], latent[2])};
}

void Worker::take_text_views(Arena& arena, Views& views) const {
  const ModelParts& parts = process_.parts;
  views.features = take(arena, DType::f32, {sum(caption_lengths_), parts.encoder_config().hidden});
  const size_t mark = arena.used_bytes();
  const auto take_batch = [&](const Batch& batch) {
    const std::span<const int64_t> lengths = std::span(caption_lengths_).subspan(batch.first, batch.count);
    arena.rewind(mark);
    qwen3::Scratch encoder = qwen3::Scratch::take(arena, parts.encoder_config(), lengths, parts.dtype());
    arena.rewind(mark);
    views.text.push_back({batch, std::move(encoder),
                          zimage::RefineScratch::take(arena, parts.transformer_config(), lengths, parts.dtype())});
  };
  for (size_t first = 0; first < kept_.size();) {
    const auto is_kept = [](const Tensor* caption) { return caption != nullptr; };
    const auto end = std::find_if(kept_.begin() + static_cast<std::ptrdiff_t>(first), kept_.end(), is_kept);
    const size_t count = static_cast<size_t>(end - kept_.begin()) - first;
    const std::span<const int64_t> rows = std::span(padded_captions_).subspan(first, count);
    for (const Batch& batch : batch_plan(rows, max_batch_rows(ctx_.device())))
      take_batch({first + batch.first, batch.count, batch.passes_apart});
    first += count + 1;
  }
}

Shape Worker::latent_shape() const {
  const int64_t scale = process_.parts.vae_config().scale();
  const ResolvedRequest& resolved = made_.front().resolved;
  return {process_.parts.transformer_config().in_channels, resolved.drawn_height / scale, resolved.drawn_width / scale};
}

std::span<const int64_t> Worker::lengths_of(const TextBatch& batch) const {
  return std::span(caption_lengths_).subspan(batch.captions.first, batch.captions.count);
}

void Worker::encode_batch(Context& ctx, const TextBatch& batch) {
  process_.parts.encoder(ctx).encode(ctx, lengths_of(batch), batch.encoder,
                                     rows_of(views_.features, caption_lengths_, batch.captions));
}

void Worker::refine_batch(Context& ctx, const TextBatch& batch) {
  process_.parts.transformer(ctx).refine(ctx, lengths_of(batch),
                                         rows_of(views_.features, caption_lengths_, batch.captions), batch.refiner,
                                         rows_of(views_.captions, padded_captions_, batch.captions));
}

void Worker::caption_batch(Context& ctx, const TextBatch& batch) {
  const auto work = [&] {
    encode_batch(ctx, batch);
    refine_batch(ctx, batch);
  };
  const MemoryPlan& memory = process_.parts.memory_plan();
  const bool can_record = ctx.device().kind == DeviceKind::cuda && !process_.parts.draws_once() &&
                          memory.encoder.host_bytes + memory.transformer.host_bytes == 0;
  if (!can_record) return work();
  const std::span<const int64_t> lengths = lengths_of(batch);
  CaptionKey key{{lengths.begin(), lengths.end()},
                 rows_of(views_.features, caption_lengths_, batch.captions).bytes(),
                 batch.encoder.normed.bytes(),
                 rows_of(views_.captions, padded_captions_, batch.captions).bytes()};
  Graph* const known = memory_.captions().find(key);
  if (known != nullptr && *known) return known->launch(ctx);
  work();
  // Many lengths come only once, for which a recording would be made in vain.
  if (known == nullptr)
    memory_.captions().insert(std::move(key), Graph());
  else
    *known = Graph::record(ctx, work);
}

void Worker::make_captions() {
  ModelParts& parts = process_.parts;
  Context& ctx = process_.ctx;
  const auto each_batch = [&](const auto& work) {
    if (!is_root()) return;
    timed("text_encoder", ctx, [&] {
      for (const TextBatch& batch : views_.text) work(batch);
    });
  };
  const auto take_ids = [&](const TextBatch& batch) {
    std::vector<std::span<const int32_t>> ids;
    for (const PromptTokens& tokens : std::span(text_tokens_).subspan(batch.captions.first, batch.captions.count))
      ids.emplace_back(tokens.ids);
    parts.encoder(ctx).take_ids(ctx, ids, batch.encoder);
  };
  if (process_.release_parts) {
    load([&] {
      if (!views_.text.empty()) parts.encoder(ctx);
    });
  }
  enter_stage("text");
  if (process_.release_parts) {
    each_batch([&](const TextBatch& batch) {
      take_ids(batch);
      encode_batch(ctx, batch);
    });
    load([&] {
      parts.release_encoder();
      parts.transformer(ctx);
    });
    each_batch([&](const TextBatch& batch) { refine_batch(ctx, batch); });
  } else {
    each_batch([&](const TextBatch& batch) {
      take_ids(batch);
      caption_batch(ctx, batch);
    });
  }
  if (is_root()) take_kept_captions(ctx);
  // What follows is ordered with the rank's own work.
  if (is_root() && &ctx != &ctx_) ctx.synchronize("captions");
  const View captions = views_.captions;
  groups_.world().broadcast({captions.bytes(), captions.size_in_bytes(), ctx_.device()}, kRoot).wait();
}

void Worker::take_kept_captions(Context& ctx) {
  for (size_t i = 0; i < kept_.size(); ++i) {
    const View caption = rows_of(views_.captions, padded_captions_, {i, 1});
    if (kept_[i] != nullptr) {
      upload(ctx, *kept_[i], caption);
      ++report_.kept_captions;
    } else if (process_.captions != nullptr) {
      to_keep_.emplace_back(i, Tensor(Device{}, caption.dtype(), caption.shape()));
      download(ctx, caption, to_keep_.back().second);
    }
  }
}

void Worker::keep_captions() {
  for (auto& [caption, copy] : to_keep_) {
    const size_t bytes = copy.size_in_bytes();
    process_.captions->insert(text_tokens_[caption].ids, std::move(copy), bytes);
  }
  to_keep_.clear();
}

void Worker::fill_noise(const PicturePlace& place, View latents, View state) {
  const GenerationRequest& request = request_of(place);
  const uint64_t seed = picture_at(place).seed;
  if (request.latents.empty() && request.rng == RngKind::torch_cuda) return ops::philox_normal(ctx_, seed, state);
  if (is_root()) {
    for_request(place.request, made_.size(), [&] {
      if (request.latents.empty())
        fill_torch_cpu_normal(seed, {latents.data<float>(), static_cast<size_t>(latents.elements())});
      else
        read_latents(request.latents, latents);
    });
  }
  groups_.world().broadcast({latents.bytes(), latents.size_in_bytes(), Device{}}, kRoot).wait();
  upload(ctx_, latents, state);
}

void Worker::denoise() {
  for (size_t i = 0; i < batches_.size(); ++i) denoise_batch(batches_[i], plans_[i], views_.samplers[i]);
  const nn::SequenceRanks& ranks = groups_.sequence();
  const std::vector<parallel::Range> heads =
      parallel::split(process_.parts.transformer_config().heads, ranks.ulysses().world());
  report_.ranks = {{groups_.world().rank(), plans_.front().share.image_tokens(),
                    heads[static_cast<size_t>(ranks.place_of(ranks.all().rank()))].count, 0}};
}

void Worker::denoise_batch(const Batch& batch, const SamplerPlan& plan, const SamplerMemory& memory) {
  const std::span<const PicturePlace> places = std::span(pictures_).subspan(batch.first, batch.count);
  const std::span<const View> states = std::span(views_.states).subspan(batch.first, batch.count);
  std::vector<ConstView> captions;
  for (size_t i = 0; i < padded_captions_.size(); ++i)
    captions.push_back(rows_of(views_.captions, padded_captions_, {i, 1}));
  Sampler sampler(ctx_, process_.parts.transformer(ctx_), plan, memory, captions, memory_.left());
  if (batch.first == 0) {
    report_.transformer_flop = sampler.step_flop();
    report_.transformer_rows = sampler.rows();
  }
  const Shape shape = latent_shape();
  for (size_t i = 0; i < places.size(); ++i) {
    Tensor& latents = picture_at(places[i]).latents;
    latents = Tensor(Device{}, DType::f32, {1, shape[0], shape[1], shape[2]});
    fill_noise(places[i], latents.view().reshape(shape), states[i]);
  }
  std::optional<Previewer> previewer;
  if (orders_->has_previews())
    previewer.emplace(
        ctx_, plan, memory, views_.preview, [this]() -> const auto& { return process_.parts.autoencoder(ctx_); },
        is_root());
  const auto wanted = [&] {
    orders_->drop_cancelled(made_);
    std::vector<bool> are_wanted;
    for (const PicturePlace& place : places) are_wanted.push_back(is_wanted(place));
    return are_wanted;
  };
  sampler.run(states, wanted, [&](int64_t step, double step_ms) {
    // Once the first step has found out which products are fastest, which busy cores would disturb.
    if (step == 1 && batch.first == 0) plan_decode();
    if (previewer) previewer->arrived();
    tell_step(places, step_ms);
    if (previewer) preview(*previewer, places, step);
  });
  for (size_t i = 0; i < places.size(); ++i)
    download(ctx_, states[i], picture_at(places[i]).latents.view().reshape(shape));
  for (Stopwatch& step : sampler.take_steps()) steps_.push_back(std::move(step));
}

void Worker::tell_step(std::span<const PicturePlace> batch, double step_ms) {
  if (!is_root()) return;
  for (const PicturePlace& place : batch) {
    const Progress& progress = progress_[place.request];
    if (!progress.on_step || !is_wanted(place)) continue;
    const auto of_request = std::ranges::count(batch, place.request, &PicturePlace::request);
    const GenerationRequest& request = request_of(place);
    progress.on_step(++steps_told_[place.request], request.num_outputs * *request.num_inference_steps,
                     step_ms / static_cast<double>(of_request));
  }
}

void Worker::preview(Previewer& previewer, std::span<const PicturePlace> batch, int64_t step) {
  const auto steps = plans_.front().steps();
  std::vector<StepOrders::Step> done;
  for (const PicturePlace& place : batch) {
    const bool is_over = step == steps || !is_wanted(place);
    done.push_back({place.request, {static_cast<int64_t>(place.index), step}, is_over});
  }
  const std::vector<bool> wanted = orders_->previews(done);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!wanted[i]) continue;
    previewer.after_step(
        i, step - 1, [this, at = done[i]](const Image& picture) { progress_[at.request].on_preview(at.of, picture); });
  }
}

void Worker::run_recorded(Graph& recorded, const std::function<void()>& work) {
  Communicator& world = groups_.world();
  if (recorded) return world.device().enqueue_together([&] { recorded.launch(ctx_); });
  work();
  if (can_record_ && !process_.parts.draws_once()) recorded = Graph::record(ctx_, work);
}

void Worker::plan_decode() {
  if (process_.release_parts) return;       // the decoder is not loaded yet
  if (groups_.world().world() > 1) return;  // the ranks exchange meanwhile
  const nn::RowShards shards(groups_.world(), latent_shape()[1]);
  process_.parts.autoencoder(ctx_).plan_decode(ctx_, shards, views_.states.front(), views_.decoder.scratch,
                                               views_.decoder.decoded);
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
    report_.arena_bytes = std::max(report_.arena_bytes, late.peak_bytes());
  }
  enter_stage("decode");
  const autoencoder_kl::Autoencoder& vae = process_.parts.autoencoder(ctx_);
  const nn::RowShards shards(groups_.world(), latent_shape()[1]);
  // Of each picture: on rank 0 all of it, elsewhere this rank's rows. The host has its memory before the GPU has the pixels.
  std::vector<Image> drawn(pictures_.size());
  const auto own_rows = [&](size_t i) {
    return rows_of(drawn[i], is_root() ? pixel_rows(kRoot) : parallel::Range{0, drawn[i].height});
  };
  std::vector<int32_t> invalid_pictures(pictures_.size(), 0);
  timed("vae_decode", ctx_, [&] {
    const auto& [decoded, quantized, invalid, scratch] = views_.decoder;
    upload(ctx_, host_view(invalid_pictures), invalid);
    for (size_t i = 0; i < pictures_.size(); ++i) {
      orders_->drop_cancelled(made_);
      if (!is_wanted(pictures_[i])) continue;
      ctx_.throw_if_cancelled();
      const ResolvedRequest& asked = made_[pictures_[i].request].resolved;
      drawn[i] = black(is_root() ? asked.drawn_height : quantized.shape()[0], asked.drawn_width);
      run_recorded(memory_.decode(i), [&] {
        vae.decode(ctx_, shards, views_.states[i], scratch, decoded);
        ops::to_pixels(ctx_, decoded, quantized, invalid.rows(static_cast<int64_t>(i), 1));
      });
      download(ctx_, quantized, own_rows(i));
    }
    download(ctx_, invalid, host_view(invalid_pictures));
  });
  groups_.world().device().synchronize(ctx_, "pictures");
  // Ranks that fail together can go on together.
  std::vector<int64_t> ranks_with_invalid(invalid_pictures.begin(), invalid_pictures.end());
  groups_.world().all_reduce_sum(std::span(ranks_with_invalid));
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (!is_wanted(pictures_[i])) continue;
    for_request(pictures_[i].request, made_.size(), [&] { require_finite(pictures_[i], ranks_with_invalid[i] == 0); });
    gather_picture(std::move(drawn[i]), pictures_[i]);
  }
  report_.peak_host_bytes = peak_resident_bytes();
  if (process_.release_parts) {
    groups_.world().barrier();
    if (leads_) process_.parts.release_autoencoder();
  }
}

void Worker::require_finite(const PicturePlace& place, bool decoded) const {
  const Tensor& latents = made_[place.request].pictures[place.index].latents;
  const char* const hint = process_.parts.dtype() == DType::bf16 ? "; --precision f32 may help" : "";
  const auto require_values = [&](bool finite, const char* part) {
    require(finite, ErrorKind::invalid_input,
            "the {} gave values that are no numbers (NaN or infinite) for the picture of seed {}: its weights may be "
            "damaged, or guidance too strong{}",
            part, made_[place.request].pictures[place.index].seed, hint);
  };
  require_values(is_finite(latents), "transformer");
  require_values(decoded, "VAE");
}

parallel::Range Worker::pixel_rows(int rank) const {
  const int64_t scale = process_.parts.vae_config().scale();
  const parallel::Range rows = parallel::split(latent_shape()[1], groups_.world().world())[static_cast<size_t>(rank)];
  return {rows.begin * scale, rows.count * scale};
}

void Worker::gather_picture(Image drawn, const PicturePlace& place) {
  Communicator& world = groups_.world();
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  if (!is_root()) sends.push_back({kRoot, host_bytes(std::span<const uint8_t>(drawn.rgb))});
  for (int peer = 0; is_root() && peer < world.world(); ++peer) {
    const View part = rows_of(drawn, pixel_rows(peer));
    if (peer != kRoot) receives.push_back({peer, {part.bytes(), part.size_in_bytes(), Device{}}});
  }
  world.exchange("pixels", sends, receives).wait();
  if (!is_root()) return;
  const GenerationRequest& asked = request_of(place);
  picture_at(place).image = crop_evenly(std::move(drawn), *asked.height, *asked.width);
}

void Worker::report_weights() {
  if (!leads_) return;
  report_.weight_bytes = std::max(report_.weight_bytes, process_.parts.weight_bytes());
  report_.streamed_bytes = std::max(report_.streamed_bytes, process_.parts.streamed_bytes());
}

void Worker::report_times() {
  for (const auto& [name, watch] : stages_) {
    const auto known = std::ranges::find(report_.stages, name, &StageTime::name);
    if (known == report_.stages.end())
      report_.stages.push_back({name, watch.ms()});
    else
      known->ms += watch.ms();
  }
  for (const Stopwatch& step : steps_) report_.step_ms.push_back(step.ms());
}

void Worker::report_ranks(uint64_t bytes_sent) {
  Communicator& world = groups_.world();
  RankReport own = report_.ranks.front();
  own.bytes_sent = bytes_sent;
  std::vector<RankReport>& all = report_.ranks;
  all.resize(static_cast<size_t>(world.world()));
  std::vector<Part> parts;
  for (size_t rank = 0; rank < all.size(); ++rank) parts.push_back({rank * sizeof(RankReport), sizeof(RankReport)});
  world.all_gather(host_bytes(std::span<const RankReport>(&own, 1)), host_bytes(std::span(all)), parts).wait();
}

}  // namespace nostos
