// Implements moves between latents, tokens and images.
#include "ops/patches.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "ops/typed.h"

namespace nostos::ops {

using namespace cpu;
namespace {

/// Visits every (latent index, token index) pair of a [channels, height, width] latent.
template <class Move>
void for_each_patch_element(Context& ctx, const Shape& latents, int64_t patch, const Move& move) {
  const int64_t channels = latents[0], height = latents[1], width = latents[2];
  const int64_t columns = width / patch, row_length = patch * patch * channels;
  parallel_ranges(ctx, height, row_grain(width * channels), [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        const int64_t token = (y / patch) * columns + x / patch;
        const int64_t at = token * row_length + ((y % patch) * patch + x % patch) * channels;
        for (int64_t c = 0; c < channels; ++c) move((c * height + y) * width + x, at + c);
      }
    }
  });
}

}  // namespace

void run(OnCpu<patchify>, Context& ctx, ConstView latents, int64_t patch, View tokens) {
  const float* from = latents.data<float>();
  float* to = tokens.data<float>();
  for_each_patch_element(ctx, latents.shape(), patch, [&](int64_t latent, int64_t token) { to[token] = from[latent]; });
}

void run(OnCpu<unpatchify>, Context& ctx, ConstView tokens, int64_t patch, View latents) {
  const float* from = tokens.data<float>();
  float* to = latents.data<float>();
  for_each_patch_element(ctx, latents.shape(), patch, [&](int64_t latent, int64_t token) { to[latent] = from[token]; });
}

void run(OnCpu<latents_to_image>, Context& ctx, ConstView latents, float scale, float shift, View image) {
  const int64_t channels = latents.shape()[0], pixels = latents.shape()[1] * latents.shape()[2];
  const float* from = latents.data<float>();
  with_elements(image, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, pixels, row_grain(channels), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        for (int64_t c = 0; c < channels; ++c) {
          const float value = from[c * pixels + p] / scale + shift;
          if constexpr (sizeof(Out) == sizeof(float))
            to[p * channels + c] = value;
          else
            to[p * channels + c] = to_bfloat16(value);
        }
      }
    });
  });
}

void run(OnCpu<unpack_latents>, Context& ctx, ConstView packed, int64_t patch, const ChannelStatistics& norm,
         View image) {
  const int64_t width = packed.shape()[2], pixels = packed.shape()[1] * width;
  const int64_t rows = image.shape()[0], columns = image.shape()[1], channels = image.shape()[2];
  const float* from = packed.data<float>();
  const float* mean = norm.mean.data<float>();
  const float* var = norm.var.data<float>();
  with_elements(image, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, rows, row_grain(columns * channels), [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t x = 0; x < columns; ++x) {
          const int64_t pixel = y / patch * width + x / patch, place = y % patch * patch + x % patch;
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t at = c * patch * patch + place;
            const float value = from[at * pixels + pixel] * std::sqrt(var[at] + norm.eps) + mean[at];
            if constexpr (sizeof(Out) == sizeof(float))
              to[(y * columns + x) * channels + c] = value;
            else
              to[(y * columns + x) * channels + c] = to_bfloat16(value);
          }
        }
      }
    });
  });
}

void run(OnCpu<pack_latents>, Context& ctx, ConstView image, int64_t patch, const ChannelStatistics& norm,
         View packed) {
  const int64_t columns = image.shape()[1], channels = image.shape()[2], grid_width = columns / patch;
  const int64_t tokens = packed.shape()[0], width = packed.shape()[1];
  const float* from = image.data<float>();
  const float* mean = norm.mean.data<float>();
  const float* var = norm.var.data<float>();
  float* to = packed.data<float>();
  parallel_ranges(ctx, tokens, row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      for (int64_t at = 0; at < width; ++at) {
        const int64_t c = at / (patch * patch), place = at % (patch * patch);
        const int64_t y = token / grid_width * patch + place / patch, x = token % grid_width * patch + place % patch;
        to[token * width + at] = (from[(y * columns + x) * channels + c] - mean[at]) / std::sqrt(var[at] + norm.eps);
      }
    }
  });
}

void run(OnCpu<sample_posterior>, Context& ctx, ConstView moments, ConstView noise, float scale, float shift,
         View latents) {
  const int64_t channels = latents.shape()[0], pixels = latents.shape()[1] * latents.shape()[2];
  const float* from = moments.data<float>();
  const float* random = noise.data<float>();
  float* to = latents.data<float>();
  parallel_ranges(ctx, channels, row_grain(pixels), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        const float* moment = from + pixel * 2 * channels + c;
        const float deviation = std::exp(0.5f * std::clamp(moment[channels], -30.f, 20.f));
        const float sample = moment[0] + deviation * random[c * pixels + pixel];
        to[c * pixels + pixel] = (sample - shift) * scale;
      }
    }
  });
}

void run(OnCpu<upsample_nearest_2x>, Context& ctx, ConstView x, View out) {
  const int64_t height = x.shape()[0], width = x.shape()[1], channels = x.shape()[2];
  const float* from = x.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    const size_t pixel_bytes = static_cast<size_t>(channels) * sizeof(Out);
    parallel_ranges(ctx, height, row_grain(4 * width * channels), [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        Out* row = to + 4 * y * width * channels;
        for (int64_t column = 0; column < width; ++column) {
          Out* pixel = row + 2 * column * channels;
          row_kernels().of<Out>().scale(from + (y * width + column) * channels, 1.f, channels, pixel);
          std::memcpy(pixel + channels, pixel, pixel_bytes);
        }
        std::memcpy(row + 2 * width * channels, row, 2 * static_cast<size_t>(width) * pixel_bytes);
      }
    });
  });
}

void run(OnCpu<to_pixels>, Context& ctx, ConstView x, View out, View invalid) {
  const float* from = x.data<float>();
  uint8_t* to = out.data<uint8_t>();
  const std::atomic_ref<int32_t> flag(*invalid.data<int32_t>());
  parallel_ranges(ctx, x.elements(), 16384, [&](int64_t begin, int64_t end) {
    if (!std::all_of(from + begin, from + end, [](float value) { return std::isfinite(value); }))
      flag.store(1, std::memory_order_relaxed);
    for (int64_t i = begin; i < end; ++i) {
      const float unit = from[i] / 2 + 0.5f;
      const float clamped = unit > 0 ? std::min(unit, 1.f) : 0.f;  // NaN becomes 0
      to[i] = static_cast<uint8_t>(std::nearbyint(clamped * 255.f));
    }
  });
}

void run(OnCpu<from_pixels>, Context& ctx, ConstView x, View out) {
  const uint8_t* from = x.data<uint8_t>();
  float* to = out.data<float>();
  parallel_ranges(ctx, x.elements(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = 2.0f * (static_cast<float>(from[i]) / 255.0f) - 1.0f;
  });
}

}  // namespace nostos::ops
