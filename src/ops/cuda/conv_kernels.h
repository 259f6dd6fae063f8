// Owns the kernels of convolutions: the filter's layouts, and the direct convolution where no fused kernel serves.
#pragma once

#include <cstdint>

#include "device/cuda/runtime.h"
#include "ops/conv.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// Writes `filter` [out, in, kernel, kernel] as [out, kernel, kernel, ins] in the same dtype. Channels beyond `in` are
/// left as they are.
void filter_to_channels_last(ConstView filter, int64_t ins, std::byte* to, CUstream_st* stream);

/// Writes bf16 x [height, width, in] as [height, width, ins], a multiple of kFusedChannels, with zeros beyond `in`.
void pad_channels(ConstView x, int64_t ins, std::byte* to, CUstream_st* stream);

/// Writes bf16 `filter` [out, in, 3, 3] as the four filters [4 * out, 2, 2, in] of a doubled image's pixels: filter
/// (2a + b) * out + o gives channel o of the pixels in odd (a = 1) or even rows and odd (b = 1) or even columns. Rows
/// -1, 0 and 1 of an even pixel are of the source's rows -1, 0, 0, those of an odd pixel 0, 0, 1; columns likewise.
void filter_to_phases(ConstView filter, std::byte* to, CUstream_st* stream);

/// ops::interleave_phases().
void interleave(ConstView x, View y, CUstream_st* stream);

/// y[p, c] = sums[p, c] + bias[c] (+ y[p, c]) for the first channels of `sums`.
/// \param sums f32, `channels` a pixel, at least as many as y has. \param y f32 or bf16 [height, width, out].
void take_channels(const float* sums, int64_t channels, const float* bias, bool accumulate, View y,
                   CUstream_st* stream);

/// Output channels that a thread of direct_convolution() has.
inline constexpr int64_t kDirectOuts = 4;

/// Writes `filter` [out, in, kernel, kernel] as f32 [kernel, kernel, in, outs], with zeros beyond `out` up to outs, a
/// multiple of kDirectOuts.
void filter_to_outputs_last(ConstView filter, int64_t outs, float* to, CUstream_st* stream);

/// A filter of direct_convolution().
struct DirectFilter {
  const float* weights = nullptr;  ///< as filter_to_outputs_last() writes them
  const float* bias = nullptr;     ///< [out]
  int64_t kernel = 0;
};

/// y = conv(x) + bias (+ y), each sum in float32 in the order of taps and channels: for float32 and for odd channels.
/// \param x f32 or bf16 [height, width, in]. \param y f32 or bf16 [out_height, out_width, out].
void direct_convolution(ConstView x, const DirectFilter& filter, const ConvOptions& options, View y,
                        CUstream_st* stream);

}  // namespace nostos::cuda
