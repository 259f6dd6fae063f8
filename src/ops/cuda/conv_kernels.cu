// Implements the filter's layouts and the direct convolution.
#include "ops/cuda/conv_kernels.h"

#include "ops/cuda/cudnn.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"

namespace nostos::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    filter_to_channels_last_kernel(const T* filter, int64_t elements, int64_t in, int64_t ins, int64_t taps, T* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= elements) return;
  const int64_t c = i % in, tap = i / in % taps, o = i / in / taps;
  to[(o * taps + tap) * ins + c] = filter[(o * in + c) * taps + tap];
}

/// Thread i has kFusedChannels neighbours of a pixel of `to`.
__global__ void __launch_bounds__(kBlockThreads)
    pad_channels_kernel(const bfloat16* x, int64_t items, int64_t in, int64_t ins, bfloat16* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= items) return;
  const int64_t first = i * kFusedChannels % ins;
  const bfloat16* pixel = x + i * kFusedChannels / ins * in;
  float values[kFusedChannels];
  for (int64_t c = 0; c < kFusedChannels; ++c) values[c] = first + c < in ? as_float(pixel[first + c]) : 0.f;
  store<kFusedChannels>(values, to + i * kFusedChannels);
}

template <class T>
__global__ void __launch_bounds__(kBlockThreads)
    filter_to_outputs_last_kernel(const T* filter, int64_t elements, int64_t in, int64_t out, int64_t outs,
                                  int64_t taps, float* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= elements) return;
  const int64_t o = i % outs, c = i / outs % in, tap = i / outs / in;
  to[i] = o < out ? as_float(filter[(o * in + c) * taps + tap]) : 0.f;
}

/// Thread i has element i of the phases' filters. Of the three taps along an axis phase 0 has the first alone and adds
/// the others, phase 1 adds the first two.
__global__ void __launch_bounds__(kBlockThreads)
    filter_to_phases_kernel(const bfloat16* filter, int64_t elements, int64_t in, int64_t out, bfloat16* to) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= elements) return;
  const int64_t c = i % in, tap = i / in % 4, o = i / in / 4 % out, phase = i / in / 4 / out;
  const auto first = [](int64_t phase, int64_t tap) { return static_cast<int>(tap == 0 ? 0 : phase == 0 ? 1 : 2); };
  const auto count = [](int64_t phase, int64_t tap) { return phase == tap ? 1 : 2; };
  const int64_t a = phase / 2, b = phase % 2, tap_y = tap / 2, tap_x = tap % 2;
  float sum = 0;
  for (int y = 0; y < count(a, tap_y); ++y) {
    for (int x = 0; x < count(b, tap_x); ++x)
      sum += as_float(filter[(o * in + c) * 9 + (first(a, tap_y) + y) * 3 + first(b, tap_x) + x]);
  }
  put(sum, to + i);
}

/// Thread i has vector i of y.
template <int V, class In, class Out>
__global__ void __launch_bounds__(kBlockThreads)
    interleave_kernel(const In* x, int64_t vectors, int width, int pixel_vectors, Out* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= vectors) return;
  const int64_t pixel = i / pixel_vectors, row = pixel / width, column = pixel % width;
  const int64_t a = row % 2, b = column % 2;
  const int64_t source = (row / 2 + a) * (width / 2 + 1) + column / 2 + b;
  float values[V];
  load<V>(x + ((source * 4 + 2 * a + b) * pixel_vectors + i % pixel_vectors) * V, values);
  store<V>(values, y + i * V);
}

template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    take_channels_kernel(const float* sums, int64_t channels, const float* bias, bool accumulate, int64_t elements,
                         int64_t out, Out* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= elements) return;
  const float sum = sums[i / out * channels + i % out] + bias[i % out];
  put(accumulate ? sum + as_float(y[i]) : sum, y + i);
}

struct DirectShape {
  int64_t height, width, in, out, out_groups, out_height, out_width, kernel, stride, top, left;
  bool accumulate;
};

/// Neighbouring pixels of a row that a thread has: each filter value that it reads serves all of them.
constexpr int kPixels = 4;

/// A thread has kPixels pixels of kDirectOuts channels. V channels of x are read at once.
template <int V, class In, class Out>
__global__ void __launch_bounds__(kBlockThreads)
    direct_convolution_kernel(const In* x, const float4* filter, const float* bias, DirectShape s, Out* y) {
  const int64_t columns = (s.out_width + kPixels - 1) / kPixels;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= s.out_height * columns * s.out_groups) return;
  const int64_t group = i % s.out_groups, first = i / s.out_groups % columns * kPixels;
  const int64_t row = i / s.out_groups / columns;
  float sums[kPixels][kDirectOuts] = {};
  for (int64_t tap_y = 0; tap_y < s.kernel; ++tap_y) {
    const int64_t in_y = row * s.stride - s.top + tap_y;
    if (in_y < 0 || in_y >= s.height) continue;
    for (int64_t tap_x = 0; tap_x < s.kernel; ++tap_x) {
      const float4* tap_filter = filter + (tap_y * s.kernel + tap_x) * s.in * s.out_groups + group;
      for (int64_t c = 0; c < s.in; c += V) {
        float values[kPixels][V];
#pragma unroll
        for (int p = 0; p < kPixels; ++p) {
          const int64_t in_x = (first + p) * s.stride - s.left + tap_x;
          if (in_x >= 0 && in_x < s.width) {
            load<V>(x + (in_y * s.width + in_x) * s.in + c, values[p]);
          } else {
#pragma unroll
            for (int k = 0; k < V; ++k) values[p][k] = 0;
          }
        }
#pragma unroll
        for (int k = 0; k < V; ++k) {
          const float4 weights = tap_filter[(c + k) * s.out_groups];
#pragma unroll
          for (int p = 0; p < kPixels; ++p) {
            sums[p][0] = fmaf(values[p][k], weights.x, sums[p][0]);
            sums[p][1] = fmaf(values[p][k], weights.y, sums[p][1]);
            sums[p][2] = fmaf(values[p][k], weights.z, sums[p][2]);
            sums[p][3] = fmaf(values[p][k], weights.w, sums[p][3]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPixels; ++p) {
    if (first + p >= s.out_width) break;
    Out* to = y + (row * s.out_width + first + p) * s.out + group * kDirectOuts;
#pragma unroll
    for (int o = 0; o < kDirectOuts; ++o) {
      if (group * kDirectOuts + o >= s.out) break;
      const float sum = sums[p][o] + bias[group * kDirectOuts + o];
      put(s.accumulate ? sum + as_float(to[o]) : sum, to + o);
    }
  }
}

}  // namespace

void filter_to_channels_last(ConstView filter, int64_t ins, std::byte* to, CUstream_st* stream) {
  const int64_t in = filter.shape()[1], taps = filter.shape()[2] * filter.shape()[3], elements = filter.elements();
  if (elements == 0) return;
  with_elements(filter, [&]<class T>(const T* from) {
    filter_to_channels_last_kernel<<<blocks_for(elements), kBlockThreads, 0, stream>>>(from, elements, in, ins, taps,
                                                                                       reinterpret_cast<T*>(to));
  });
  check_launch("filter_to_channels_last");
}

void pad_channels(ConstView x, int64_t ins, std::byte* to, CUstream_st* stream) {
  const Shape& shape = x.shape();
  const int64_t items = shape[0] * shape[1] * (ins / kFusedChannels);
  if (items == 0) return;
  pad_channels_kernel<<<blocks_for(items), kBlockThreads, 0, stream>>>(x.data<bfloat16>(), items, shape[2], ins,
                                                                       reinterpret_cast<bfloat16*>(to));
  check_launch("pad_channels");
}

void filter_to_phases(ConstView filter, std::byte* to, CUstream_st* stream) {
  const int64_t out = filter.shape()[0], in = filter.shape()[1], elements = 4 * out * 4 * in;
  filter_to_phases_kernel<<<blocks_for(elements), kBlockThreads, 0, stream>>>(filter.data<bfloat16>(), elements, in,
                                                                              out, reinterpret_cast<bfloat16*>(to));
  check_launch("filter_to_phases");
}

void interleave(ConstView x, View y, CUstream_st* stream) {
  const int64_t channels = y.shape()[2];
  with_elements(x, [&](const auto* from) {
    with_elements(y, [&](auto* to) {
      with_vector(channels % kVector == 0 && is_aligned(from, to), [&](auto v) {
        const int64_t vectors = y.elements() / v;
        interleave_kernel<v()><<<blocks_for(vectors), kBlockThreads, 0, stream>>>(
            from, vectors, static_cast<int>(y.shape()[1]), static_cast<int>(channels / v), to);
      });
    });
  });
  check_launch("interleave");
}

void filter_to_outputs_last(ConstView filter, int64_t outs, float* to, CUstream_st* stream) {
  const int64_t out = filter.shape()[0], in = filter.shape()[1], taps = filter.shape()[2] * filter.shape()[3];
  const int64_t elements = taps * in * outs;
  if (elements == 0) return;
  with_elements(filter, [&](const auto* from) {
    filter_to_outputs_last_kernel<<<blocks_for(elements), kBlockThreads, 0, stream>>>(from, elements, in, out, outs,
                                                                                      taps, to);
  });
  check_launch("filter_to_outputs_last");
}

void take_channels(const float* sums, int64_t channels, const float* bias, bool accumulate, View y,
                   CUstream_st* stream) {
  const int64_t elements = y.elements();
  with_elements(y, [&](auto* to) {
    take_channels_kernel<<<blocks_for(elements), kBlockThreads, 0, stream>>>(sums, channels, bias, accumulate, elements,
                                                                             y.shape()[2], to);
  });
  check_launch("take_channels");
}

void direct_convolution(ConstView x, const DirectFilter& filter, const ConvOptions& options, View y,
                        CUstream_st* stream) {
  const Padding& padding = options.padding;
  const int64_t out = y.shape()[2], out_groups = (out + kDirectOuts - 1) / kDirectOuts;
  const DirectShape shape{x.shape()[0], x.shape()[1],  x.shape()[2],   out,         out_groups,   y.shape()[0],
                          y.shape()[1], filter.kernel, options.stride, padding.top, padding.left, options.accumulate};
  const int64_t items = shape.out_height * ((shape.out_width + kPixels - 1) / kPixels) * out_groups;
  if (items == 0) return;
  with_elements(x, [&](const auto* from) {
    with_elements(y, [&](auto* to) {
      with_vector(shape.in % kVector == 0 && is_aligned(from), [&](auto vector) {
        direct_convolution_kernel<vector()><<<blocks_for(items), kBlockThreads, 0, stream>>>(
            from, reinterpret_cast<const float4*>(filter.weights), filter.bias, shape, to);
      });
    });
  });
  check_launch("direct_convolution");
}

}  // namespace nostos::cuda
