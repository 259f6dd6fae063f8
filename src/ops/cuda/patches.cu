// Implements moves between latents, tokens and images.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/patches.h"

namespace nostos::ops {

using namespace cuda;
namespace {

__device__ int64_t this_item() { return static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; }

struct PatchGrid {
  int channels, height, width, patch;
};

PatchGrid patch_grid(const Shape& latents, int64_t patch) {
  return {static_cast<int>(latents[0]), static_cast<int>(latents[1]), static_cast<int>(latents[2]),
          static_cast<int>(patch)};
}

/// Thread i has element i of the tokens; channels are innermost there.
template <bool kToTokens>
__global__ void __launch_bounds__(kBlockThreads)
    patch_kernel(const float* from, PatchGrid grid, int64_t elements, float* to) {
  const int64_t item = this_item();
  if (item >= elements) return;
  const int row_length = grid.patch * grid.patch * grid.channels, columns = grid.width / grid.patch;
  const int token = static_cast<int>(item / row_length), within = static_cast<int>(item % row_length);
  const int c = within % grid.channels, offset = within / grid.channels;
  const int y = token / columns * grid.patch + offset / grid.patch,
            x = token % columns * grid.patch + offset % grid.patch;
  const int64_t latent = (static_cast<int64_t>(c) * grid.height + y) * grid.width + x;
  if constexpr (kToTokens)
    to[item] = from[latent];
  else
    to[latent] = from[item];
}

template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    latents_to_image_kernel(const float* latents, int64_t pixels, int channels, float scale, float shift, Out* image) {
  const int64_t item = this_item();
  if (item >= pixels * channels) return;
  put(__fadd_rn(__fdiv_rn(latents[item % channels * pixels + item / channels], scale), shift), image + item);
}

template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    unpack_kernel(const float* packed, const float* mean, const float* var, float eps, PatchGrid image, Out* out) {
  const int64_t item = this_item();
  if (item >= static_cast<int64_t>(image.channels) * image.height * image.width) return;
  const int c = static_cast<int>(item % image.channels);
  const int64_t pixel = item / image.channels;
  const int y = static_cast<int>(pixel / image.width), x = static_cast<int>(pixel % image.width), p = image.patch;
  const int at = c * p * p + y % p * p + x % p;
  const int64_t pixels = static_cast<int64_t>(image.height / p) * (image.width / p);
  const float value = packed[at * pixels + static_cast<int64_t>(y / p) * (image.width / p) + x / p];
  put(__fadd_rn(__fmul_rn(value, sqrtf(__fadd_rn(var[at], eps))), mean[at]), out + item);
}

/// Thread i has element i of the tokens.
__global__ void __launch_bounds__(kBlockThreads)
    pack_kernel(const float* from, const float* mean, const float* var, float eps, PatchGrid image, int64_t elements,
                int width, float* packed) {
  const int64_t item = this_item();
  if (item >= elements) return;
  const int p = image.patch, columns = image.width / p;
  const int token = static_cast<int>(item / width), at = static_cast<int>(item % width);
  const int c = at / (p * p), place = at % (p * p);
  const int y = token / columns * p + place / p, x = token % columns * p + place % p;
  const float value = from[(static_cast<int64_t>(y) * image.width + x) * image.channels + c];
  packed[item] = __fdiv_rn(__fadd_rn(value, -mean[at]), sqrtf(__fadd_rn(var[at], eps)));
}

/// Thread i has latent i.
__global__ void __launch_bounds__(kBlockThreads)
    sample_posterior_kernel(const float* moments, const float* noise, int64_t pixels, int channels, float scale,
                            float shift, float* latents) {
  const int64_t item = this_item();
  if (item >= pixels * channels) return;
  const float* const moment = moments + item % pixels * 2 * channels + item / pixels;
  const float deviation = expf(0.5f * fminf(fmaxf(moment[channels], -30.f), 20.f));
  const float sample = __fadd_rn(moment[0], __fmul_rn(deviation, noise[item]));
  latents[item] = __fmul_rn(__fadd_rn(sample, -shift), scale);
}

/// Thread i has vector i of x and writes it to the four pixels of out.
template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads)
    upsample_kernel(const In* x, int64_t vectors, int width, int pixel_vectors, Out* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
  load<V>(x + item * V, values);
  const int64_t pixel = item / pixel_vectors, y = pixel / width, column = pixel % width;
  const int64_t corner = (2 * y * 2 * width + 2 * column) * pixel_vectors + item % pixel_vectors;
  const int64_t row = 2 * static_cast<int64_t>(width) * pixel_vectors;
  store<V>(values, out + corner * V);
  store<V>(values, out + (corner + pixel_vectors) * V);
  store<V>(values, out + (corner + row) * V);
  store<V>(values, out + (corner + row + pixel_vectors) * V);
}

__device__ uint32_t pixel_of(float x) {
  const float unit = x / 2 + 0.5f;
  const float clamped = unit > 0 ? fminf(unit, 1.f) : 0.f;  // NaN becomes 0
  return static_cast<uint32_t>(rintf(clamped * 255.f));
}

template <class In, int V>
__global__ void __launch_bounds__(kBlockThreads)
    to_pixels_kernel(const In* x, int64_t vectors, uint8_t* out, int32_t* invalid) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
  load<V>(x + item * V, values);
#pragma unroll
  for (int i = 0; i < V; ++i)
    if (!isfinite(values[i])) *invalid = 1;
  if constexpr (V == 1) {
    out[item] = static_cast<uint8_t>(pixel_of(values[0]));
  } else {
    static_assert(V == 8);
    uint32_t words[2] = {};
#pragma unroll
    for (int i = 0; i < V; ++i) words[i / 4] |= pixel_of(values[i]) << (i % 4 * 8);
    reinterpret_cast<uint2*>(out)[item] = make_uint2(words[0], words[1]);
  }
}

template <int V>
__global__ void __launch_bounds__(kBlockThreads) from_pixels_kernel(const uint8_t* x, int64_t vectors, float* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
#pragma unroll
  for (int i = 0; i < V; ++i) values[i] = 2.f * __fdiv_rn(static_cast<float>(x[item * V + i]), 255.f) - 1.f;
  store<V>(values, out + item * V);
}

}  // namespace

void run(OnCuda<patchify>, Context& ctx, ConstView latents, int64_t patch, View tokens) {
  if (tokens.elements() == 0) return;
  patch_kernel<true><<<blocks_for(tokens.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      latents.data<float>(), patch_grid(latents.shape(), patch), tokens.elements(), tokens.data<float>());
  check_launch("patchify");
}

void run(OnCuda<unpatchify>, Context& ctx, ConstView tokens, int64_t patch, View latents) {
  if (tokens.elements() == 0) return;
  patch_kernel<false><<<blocks_for(tokens.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      tokens.data<float>(), patch_grid(latents.shape(), patch), tokens.elements(), latents.data<float>());
  check_launch("unpatchify");
}

void run(OnCuda<latents_to_image>, Context& ctx, ConstView latents, float scale, float shift, View image) {
  if (image.elements() == 0) return;
  const int64_t channels = latents.shape()[0], pixels = image.elements() / channels;
  with_elements(image, [&]<class Out>(Out* to) {
    latents_to_image_kernel<<<blocks_for(image.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
        latents.data<float>(), pixels, static_cast<int>(channels), scale, shift, to);
    check_launch("latents_to_image");
  });
}

void run(OnCuda<unpack_latents>, Context& ctx, ConstView packed, int64_t patch, const ChannelStatistics& norm,
         View image) {
  if (image.elements() == 0) return;
  const Shape& shape = image.shape();
  const PatchGrid grid = patch_grid({shape[2], shape[0], shape[1]}, patch);
  with_elements(image, [&]<class Out>(Out* to) {
    unpack_kernel<<<blocks_for(image.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
        packed.data<float>(), norm.mean.data<float>(), norm.var.data<float>(), norm.eps, grid, to);
    check_launch("unpack_latents");
  });
}

void run(OnCuda<pack_latents>, Context& ctx, ConstView image, int64_t patch, const ChannelStatistics& norm,
         View packed) {
  if (packed.elements() == 0) return;
  const Shape& shape = image.shape();
  pack_kernel<<<blocks_for(packed.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      image.data<float>(), norm.mean.data<float>(), norm.var.data<float>(), norm.eps,
      patch_grid({shape[2], shape[0], shape[1]}, patch), packed.elements(), static_cast<int>(packed.shape()[1]),
      packed.data<float>());
  check_launch("pack_latents");
}

void run(OnCuda<sample_posterior>, Context& ctx, ConstView moments, ConstView noise, float scale, float shift,
         View latents) {
  if (latents.elements() == 0) return;
  const int64_t channels = latents.shape()[0], pixels = latents.elements() / channels;
  sample_posterior_kernel<<<blocks_for(latents.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      moments.data<float>(), noise.data<float>(), pixels, static_cast<int>(channels), scale, shift,
      latents.data<float>());
  check_launch("sample_posterior");
}

void run(OnCuda<upsample_nearest_2x>, Context& ctx, ConstView x, View out) {
  if (x.elements() == 0) return;
  const int64_t width = x.shape()[1], channels = x.shape()[2];
  with_elements(x, [&]<class In>(const In* in) {
    with_elements(out, [&]<class Out>(Out* to) {
      with_vector(channels % kVector == 0 && is_aligned(in, to), [&](auto v) {
        const int64_t vectors = x.elements() / v;
        upsample_kernel<In, Out, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(
            in, vectors, static_cast<int>(width), static_cast<int>(channels / v), to);
        check_launch("upsample_nearest_2x");
      });
    });
  });
}

void run(OnCuda<to_pixels>, Context& ctx, ConstView x, View out, View invalid) {
  if (x.elements() == 0) return;
  uint8_t* to = out.data<uint8_t>();
  with_elements(x, [&]<class In>(const In* in) {
    with_vector(x.elements() % kVector == 0 && is_aligned(in, to), [&](auto v) {
      const int64_t vectors = x.elements() / v;
      to_pixels_kernel<In, v>
          <<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(in, vectors, to, invalid.data<int32_t>());
      check_launch("to_pixels");
    });
  });
}

void run(OnCuda<from_pixels>, Context& ctx, ConstView x, View out) {
  if (x.elements() == 0) return;
  float* to = out.data<float>();
  with_vector(x.elements() % kVector == 0 && is_aligned(to, to), [&](auto v) {
    const int64_t vectors = x.elements() / v;
    from_pixels_kernel<v>
        <<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(x.data<uint8_t>(), vectors, to);
    check_launch("from_pixels");
  });
}

}  // namespace nostos::ops
