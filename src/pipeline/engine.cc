// Implements a generation: text, noise, denoising, decoding.
#include "pipeline/engine.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "ops/linear.h"
#include "ops/patches.h"
#include "pipeline/model_parts.h"
#include "pipeline/sampler.h"

namespace nostos {
namespace {

/// Adds the wall-clock time of its life to a stage of the report.
class StageTimer {
 public:
  StageTimer(RunReport& report, std::string stage)
      : report_(report), stage_(std::move(stage)), begin_(std::chrono::steady_clock::now()) {}
  ~StageTimer() {
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin_).count();
    for (StageTime& known : report_.stages) {
      if (known.name == stage_) {
        known.ms += ms;
        return;
      }
    }
    report_.stages.push_back({stage_, ms});
  }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  RunReport& report_;
  std::string stage_;
  std::chrono::steady_clock::time_point begin_;
};

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

DType choose_dtype(Context& ctx, Precision precision) {
  if (precision == Precision::f32) return DType::f32;
  const bool has_bf16 = ops::has_bf16_products(ctx);
  require(precision != Precision::bf16 || has_bf16, ErrorKind::device,
          "--precision bf16 wants a CPU with AVX-512 BF16; this one has none: use f32 or auto");
  return has_bf16 ? DType::bf16 : DType::f32;
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

struct Engine::Impl {
  explicit Impl(const EngineOptions& given)
      : options(given),
        ctx(given.device, given.threads),
        dtype(choose_dtype(ctx, given.precision)),
        parts(ctx, given.model, given.synthetic, dtype) {}

  Tensor encode(std::string_view prompt, bool& truncated);
  void denoise(Generation& result, const Progress& progress);
  void decode(Generation& result);
  /// Runs `load` as a stage of its own unless the part is there already.
  template <class Load>
  void load(RunReport& report, const Progress& progress, const Load& load);

  EngineOptions options;
  Context ctx;
  DType dtype;
  ModelParts parts;
};

template <class Load>
void Engine::Impl::load(RunReport& report, const Progress& progress, const Load& load) {
  const StageTimer timer(report, "load");
  if (progress.on_stage) progress.on_stage("load");
  load();
  report.weight_bytes = std::max(report.weight_bytes, parts.weight_bytes());
}

Engine::Engine(const EngineOptions& options) {
  require(options.device.kind == DeviceKind::cpu, ErrorKind::device,
          "this build draws on the CPU alone: it has no backend for {}", to_string(options.device));
  impl_ = std::make_unique<Impl>(options);
  if (options.release_parts) return;
  impl_->parts.encoder(impl_->ctx);
  impl_->parts.transformer(impl_->ctx);
  impl_->parts.autoencoder(impl_->ctx);
}

Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

const ModelLimits& Engine::limits() const { return impl_->parts.limits(); }

const char* Engine::precision_name() const { return impl_->dtype == DType::bf16 ? "bf16" : "f32"; }

double Engine::measure_matmul_gflops(int64_t rows) {
  const zimage::Config& config = impl_->parts.transformer_config();
  return ops::measure_linear_gflops(impl_->ctx, impl_->dtype, rows, config.hidden, 2 * config.ffn());
}

Tensor Engine::Impl::encode(std::string_view prompt, bool& truncated) {
  const PromptTokens tokens = parts.tokenize(prompt);
  truncated = tokens.truncated;
  if (tokens.truncated) log_warning("the prompt was cut to its first {} tokens", tokens.ids.size());
  const qwen3::Encoder& encoder = parts.encoder(ctx);
  Tensor features(ctx.device(), DType::f32, {static_cast<int64_t>(tokens.ids.size()), encoder.config().hidden});
  encoder.encode(ctx, tokens.ids, features);
  return features;
}

void Engine::Impl::denoise(Generation& result, const Progress& progress) {
  const GenerationRequest& request = result.resolved.request;
  RunReport& report = result.report;
  const bool guided = *request.guidance_scale > 0;
  Tensor positive, negative;
  if (options.release_parts) load(report, progress, [&] { parts.encoder(ctx); });
  {
    const StageTimer timer(report, "text_encoder");
    if (progress.on_stage) progress.on_stage("text");
    positive = encode(request.prompt, result.prompt_truncated);
    bool negative_truncated = false;
    if (guided) negative = encode(request.negative_prompt, negative_truncated);
  }
  if (options.release_parts) {
    parts.release_encoder();
    load(report, progress, [&] { parts.transformer(ctx); });
  }

  const StageTimer timer(report, "denoise");
  if (progress.on_stage) progress.on_stage("denoise");
  const zimage::Transformer& transformer = parts.transformer(ctx);
  const int64_t scale = parts.vae_config().scale(), patch = transformer.config().patch;
  const Shape latent_shape{transformer.config().in_channels, result.resolved.drawn_height / scale,
                           result.resolved.drawn_width / scale};
  const Schedule schedule = request.sigmas.empty()
                                ? make_schedule(parts.scheduler_config(), *request.num_inference_steps)
                                : make_schedule(parts.scheduler_config(), request.sigmas);
  Sampler sampler(ctx, transformer, schedule,
                  {static_cast<float>(*request.guidance_scale), static_cast<float>(request.cfg_normalization),
                   static_cast<float>(request.cfg_truncation)},
                  {latent_shape[1] / patch, latent_shape[2] / patch}, positive.view(), negative.view());
  report.arena_bytes = sampler.arena_bytes();
  report.transformer_flop = sampler.step_flop();
  report.transformer_rows = sampler.rows();
  const int64_t steps = static_cast<int64_t>(schedule.times.size());
  for (int64_t i = 0; i < request.num_outputs; ++i) {
    Picture picture;
    picture.seed = request.seed + static_cast<uint64_t>(i);
    picture.latents = Tensor(ctx.device(), DType::f32, {1, latent_shape[0], latent_shape[1], latent_shape[2]});
    const View latents = picture.latents.view().reshape(latent_shape);
    if (request.latents.empty()) {
      fill_normal(request.rng, picture.seed, {latents.data<float>(), static_cast<size_t>(latents.elements())});
    } else {
      read_latents(request.latents, latents);
    }
    sampler.run(latents, [&](int64_t step, double step_ms) {
      report.step_ms.push_back(step_ms);
      if (progress.on_step) progress.on_step(i * steps + step, request.num_outputs * steps, step_ms);
    });
    result.pictures.push_back(std::move(picture));
  }
}

void Engine::Impl::decode(Generation& result) {
  const StageTimer timer(result.report, "vae_decode");
  const autoencoder_kl::Autoencoder& vae = parts.autoencoder(ctx);
  const Shape image_shape{result.resolved.drawn_height, result.resolved.drawn_width, 3};
  const int64_t scale = vae.config().scale(), height = image_shape[0] / scale, width = image_shape[1] / scale;
  Arena measure(ctx.device());
  vae.take_decode_scratch(measure, height, width);
  Arena arena(ctx.device(), measure.peak_bytes());
  const autoencoder_kl::Scratch scratch = vae.take_decode_scratch(arena, height, width);
  Tensor decoded(ctx.device(), DType::f32, image_shape), pixels(ctx.device(), DType::u8, image_shape);
  for (Picture& picture : result.pictures) {
    vae.decode(ctx, picture.latents.view().reshape({vae.config().latent_channels, height, width}), scratch, decoded);
    ops::to_pixels(ctx, decoded, pixels);
    picture.image = crop_evenly(pixels.view(), *result.resolved.request.height, *result.resolved.request.width);
  }
  result.report.arena_bytes = std::max(result.report.arena_bytes, arena.peak_bytes());
}

Generation Engine::generate(const GenerationRequest& request, const Progress& progress) {
  Impl& impl = *impl_;
  Generation result;
  result.resolved = resolve(request, impl.parts.limits());
  const CancelWatch watch(impl.ctx, progress.cancel);
  result.report.weight_bytes = impl.parts.weight_bytes();
  impl.denoise(result, progress);
  if (impl.options.release_parts) {
    impl.parts.release_transformer();
    impl.load(result.report, progress, [&] { impl.parts.autoencoder(impl.ctx); });
  }
  if (progress.on_stage) progress.on_stage("decode");
  impl.decode(result);
  if (impl.options.release_parts) impl.parts.release_autoencoder();
  result.report.peak_host_bytes = peak_resident_bytes();
  return result;
}

}  // namespace nostos
