// Implements previews.
#include "pipeline/preview.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "nn/row_shards.h"
#include "ops/elementwise.h"
#include "pipeline/noise.h"

namespace nostos {
namespace {

constexpr int64_t kColors = 3;
constexpr int64_t kFitSide = 32;  // latent pixels of the noise that colours are learnt from
constexpr int64_t kCoarsest = 8;
constexpr uint64_t kFitSeed = 1;

/// \return latents [channels, kFitSide, kFitSide] of unit variance, equal parts of noise whose grain is 1, 2, 4 and 8
/// pixels: like those of pictures, which hold areas as well as edges.
Tensor noise_on_all_scales(int64_t channels) {
  Tensor latents(Device{}, DType::f32, {channels, kFitSide, kFitSide});
  float* const values = latents.data<float>();
  std::fill_n(values, latents.view().elements(), 0.0f);
  uint64_t seed = kFitSeed;
  for (int64_t grain = 1; grain <= kCoarsest; grain *= 2) {
    const int64_t side = kFitSide / grain;
    std::vector<float> noise(static_cast<size_t>(channels * side * side));
    fill_torch_cpu_normal(seed++, noise);
    for (int64_t i = 0; i < latents.view().elements(); ++i) {
      const int64_t channel = i / (kFitSide * kFitSide), y = i / kFitSide % kFitSide, x = i % kFitSide;
      values[i] += 0.5f * noise[static_cast<size_t>((channel * side + y / grain) * side + x / grain)];
    }
  }
  return latents;
}

/// \return what the decoder makes of `latents` on ctx's device: f32 [height, width, 3] on the host.
Tensor decoded(Context& ctx, const Family& family, const Tensor& latents) {
  const int64_t side = kFitSide * family.shape().limits.pixels_per_latent;
  Tensor image(Device{}, DType::f32, {side, side, kColors});
  const auto decode = [&](Arena& arena, bool measure) {
    const View given = take(arena, DType::f32, latents.shape()), made = take(arena, DType::f32, image.shape());
    const std::unique_ptr<Decoder> decoder = family.take_decoder(arena, nn::RowShards(kFitSide), kFitSide, kFitSide);
    if (measure) return;
    upload(ctx, latents, given);
    decoder->decode(ctx, given, made);
    download(ctx, made, image);
  };
  Arena measure(ctx.device());
  decode(measure, true);
  Arena arena(ctx.device(), measure.peak_bytes());
  decode(arena, false);
  ctx.synchronize("colours of latents");
  return image;
}

/// \return the mean colour of each square of `scale` x `scale` pixels, [kFitSide * kFitSide * 3].
std::vector<double> mean_colors(const Tensor& image, int64_t scale) {
  const int64_t side = kFitSide * scale;
  std::vector<double> means(static_cast<size_t>(kFitSide * kFitSide * kColors));
  for (int64_t i = 0; i < image.view().elements(); ++i) {
    const int64_t y = i / kColors / side / scale, x = i / kColors % side / scale;
    means[static_cast<size_t>((y * kFitSide + x) * kColors + i % kColors)] +=
        static_cast<double>(image.data<float>()[i]) / static_cast<double>(scale * scale);
  }
  return means;
}

/// Solves the symmetric positive system a x = b in place of b, by Cholesky's factors in place of a.
/// \param a [n, n] \param b [n, kColors]
void solve(std::vector<double>& a, std::vector<double>& b, size_t n) {
  for (size_t row = 0; row < n; ++row) {
    for (size_t column = 0; column <= row; ++column) {
      double sum = a[row * n + column];
      for (size_t k = 0; k < column; ++k) sum -= a[row * n + k] * a[column * n + k];
      a[row * n + column] = row == column ? std::sqrt(sum) : sum / a[column * n + column];
    }
  }
  for (size_t color = 0; color < kColors; ++color) {
    const auto value = [&](size_t row) -> double& { return b[row * kColors + color]; };
    for (size_t row = 0; row < n; ++row) {
      for (size_t k = 0; k < row; ++k) value(row) -= a[row * n + k] * value(k);
      value(row) /= a[row * n + row];
    }
    for (size_t row = n; row-- > 0;) {
      for (size_t k = row + 1; k < n; ++k) value(row) -= a[k * n + row] * value(k);
      value(row) /= a[row * n + row];
    }
  }
}

}  // namespace

LatentColors::LatentColors(Context& ctx, const Family& family) : channels_(family.shape().limits.latent_channels) {
  const Tensor latents = noise_on_all_scales(channels_);
  const std::vector<double> colors =
      mean_colors(decoded(ctx, family, latents), family.shape().limits.pixels_per_latent);
  // The normal equations over all latent pixels; the last unknown is the colour of none.
  const size_t n = static_cast<size_t>(channels_) + 1, pixels = kFitSide * kFitSide;
  std::vector<double> products(n * n), sums(n * kColors), pixel(n, 1.0);
  for (size_t i = 0; i < pixels; ++i) {
    for (size_t channel = 0; channel + 1 < n; ++channel) pixel[channel] = latents.data<float>()[channel * pixels + i];
    for (size_t row = 0; row < n; ++row) {
      for (size_t column = 0; column < n; ++column) products[row * n + column] += pixel[row] * pixel[column];
      for (size_t color = 0; color < kColors; ++color)
        sums[row * kColors + color] += pixel[row] * colors[i * kColors + color];
    }
  }
  solve(products, sums, n);
  factors_.assign(sums.begin(), sums.end());
}

Image LatentColors::picture(ConstView tokens, int64_t height, int64_t width, int64_t patch) const {
  Image image{height * patch, width * patch, {}};
  image.rgb.resize(static_cast<size_t>(image.height * image.width * kColors));
  const float* const values = tokens.data<float>();
  const float* const added = factors_.data() + channels_ * kColors;
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const int64_t token = y / patch * width + x / patch, place = y % patch * patch + x % patch;
      const float* const pixel = values + (token * patch * patch + place) * channels_;
      std::array<float, kColors> color{added[0], added[1], added[2]};
      for (int64_t channel = 0; channel < channels_; ++channel)
        for (size_t i = 0; i < kColors; ++i)
          color[i] += pixel[channel] * factors_[static_cast<size_t>(channel * kColors) + i];
      for (size_t i = 0; i < kColors; ++i) {
        const float level = std::clamp(color[i] / 2 + 0.5f, 0.0f, 1.0f);
        image.rgb[static_cast<size_t>((y * image.width + x) * kColors) + i] =
            static_cast<uint8_t>(std::lround(255 * level));
      }
    }
  }
  return image;
}

PreviewMemory PreviewMemory::take(Arena& arena, int64_t patch_width, const SamplerPlan& plan) {
  return {nostos::take(arena, DType::f32, {plan.share.image_tokens(), patch_width}),
          nostos::take(arena, DType::f32, {plan.steps(), 1})};
}

Previewer::Previewer(Context& ctx, const SamplerPlan& plan, const SamplerMemory& sampler, const PreviewMemory& memory,
                     PreviewState& state, const Family* family)
    : ctx_(ctx), plan_(plan), sampler_(sampler), memory_(memory), state_(state), delivers_(family != nullptr) {
  Tensor deltas(Device{}, DType::f32, memory_.clean_deltas.shape());
  for (int64_t i = 0; i < plan_.steps(); ++i)
    deltas.data<float>()[i] = plan_.schedule.clean_delta(static_cast<size_t>(i));
  upload(ctx_, deltas, memory_.clean_deltas);
  if (delivers_ && !state_.colors) state_.colors.emplace(ctx_, *family);
}

void Previewer::after_step(size_t picture, int64_t step, Deliver deliver) {
  const auto& [tokens, velocity, clean, noise] = sampler_.pictures[picture];
  ops::convert(ctx_, tokens, memory_.clean);
  ops::euler_step(ctx_, velocity[kPositive], memory_.clean_deltas.rows(step, 1), memory_.clean);
  // The state of all ranks is not there before the end: until then its place is free.
  plan_.share.gather_tokens(ctx_, memory_.clean, sampler_.gathered_tokens, sampler_.all_tokens);
  if (!delivers_) return;
  state_.landing_of(picture).fetch(ctx_, sampler_.all_tokens);
  awaited_.push_back({picture, std::move(deliver)});
  if (ctx_.device().kind == DeviceKind::cpu) arrived();
}

void Previewer::arrived() {
  const parallel::Grid& grid = plan_.share.grid();
  const int64_t patch = plan_.share.plan().request.patch;
  for (const Awaited& awaited : std::exchange(awaited_, {})) {
    const Landing& landing = state_.landing_of(awaited.picture);
    // The step before it is done, and the GPU has a step more to work on.
    while (!landing.is_done()) std::this_thread::sleep_for(std::chrono::microseconds(50));
    awaited.deliver(state_.colors->picture(landing.tensor(), grid.height, grid.width, patch));
  }
}

}  // namespace nostos
