// Implements convolution in plain C++ for builds without oneDNN: float32, channels last.

#include "ops/conv.h"
#include "ops/cpu/parallel.h"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cpu;

/// Packs the filter as [kernel y, kernel x, out, in], so that the inner sum runs over neighbouring elements.
Conv2d run(OnCpu<pack_conv2d>, Context& ctx, ConstView filter, ConstView bias) {
  const Shape& shape = filter.shape();
  Conv2d made{shape[1], shape[0], shape[2], filter.dtype(), nullptr, bias};
  auto packed = std::make_shared<PackedWeight>();
  packed->storage = Buffer(ctx.device(), filter.size_in_bytes());
  const float* from = filter.data<float>();
  float* to = reinterpret_cast<float*>(packed->storage.data());
  const int64_t taps = made.kernel * made.kernel;
  for (int64_t o = 0; o < made.out; ++o) {
    for (int64_t i = 0; i < made.in; ++i) {
      for (int64_t t = 0; t < taps; ++t) to[(t * made.out + o) * made.in + i] = from[(o * made.in + i) * taps + t];
    }
  }
  made.packed = std::move(packed);
  return made;
}

void run(OnCpu<conv2d>, Context& ctx, ConstView x, const Conv2d& filter, const ConvOptions& options, View y) {
  const int64_t stride = options.stride;
  const Padding padding = options.padding;
  const bool accumulate = options.accumulate;
  const int64_t height = x.shape()[0], width = x.shape()[1];
  const int64_t out_height = y.shape()[0], out_width = y.shape()[1], kernel = filter.kernel;
  const float* in = x.data<float>();
  const float* weights = reinterpret_cast<const float*>(filter.packed->storage.data());
  const float* bias = filter.bias.data<float>();
  float* out = y.data<float>();
  parallel_ranges(ctx, out_height * out_width, 1, [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const int64_t top = pixel / out_width * stride - padding.top, left = pixel % out_width * stride - padding.left;
      for (int64_t o = 0; o < filter.out; ++o) {
        float sum = bias[o];
        for (int64_t ky = 0; ky < kernel; ++ky) {
          for (int64_t kx = 0; kx < kernel; ++kx) {
            const int64_t iy = top + ky, ix = left + kx;
            if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
            const float* source = in + (iy * width + ix) * filter.in;
            const float* tap = weights + ((ky * kernel + kx) * filter.out + o) * filter.in;
#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < filter.in; ++c) sum += source[c] * tap[c];
          }
        }
        float& to = out[pixel * filter.out + o];
        to = sum + (accumulate ? to : 0.f);
      }
    }
  });
}

}  // namespace nostos::ops
