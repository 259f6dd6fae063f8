// Owns the kernels written with Hopper's own instructions (sm_90a): on such a GPU they take the place of a library's or
// of several kernels. A build for other generations links a stand-in that has none.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// \return whether `device` is a Hopper GPU and this build has kernels for it.
bool has_hopper_kernels(Device device);

/// What rounded heads are multiplied with: f32 [heads, queries] and [kv_heads, one for ops::kKeysAScale keys].
struct HeadScales {
  float *q = nullptr, *k = nullptr;  ///< null: heads are bf16
};

/// Attention as ops::attention() has it, without a causal mask, of bf16 heads of width kHopperHeadDim, or of such
/// values with queries and keys in 8-bit numbers. A query's result has the same bits whatever other heads and queries
/// are computed with it.
void hopper_attention(Context& ctx, const ops::QueriesKeysValues& heads, float scale, const HeadScales& scales,
                      View out);
inline constexpr int64_t kHopperHeadDim = 128;
/// The same of heads that lie side by side. \param qkv [tokens, heads.all() * kHopperHeadDim]; numbers where
/// round_packed_heads() leaves them. \param out as ops::packed_attention().
void hopper_packed_attention(Context& ctx, ConstView qkv, ops::HeadCounts heads, float scale, const HeadScales& scales,
                             std::span<const ops::RowTarget> out);

/// The same of one head of width kHopperWideHead, the VAE's. \param q, k, v [rows, width]. \param scale above 0.
void hopper_wide_attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out);
inline constexpr int64_t kHopperWideHead = 512;

/// What a product multiplies: bf16 [rows, in] and [columns, in], on the device. in is a multiple of
/// kSummedMultiple.
struct HopperFactors {
  const std::byte *x = nullptr, *weight = nullptr;
  int64_t in = 0;
};
/// out [rows, columns], bf16, = the sum of up to kMostHopperTerms products, over the first one's inputs, then the
/// second one's and so on; rows do not depend on each other. columns are a multiple of kSummedMultiple.
void hopper_linear_sum(Context& ctx, std::span<const HopperFactors> terms, View out);
inline constexpr int64_t kSummedMultiple = 8;
inline constexpr int kMostHopperTerms = 4;

/// out [rows, ffn] = silu(x Wg^T) * (x Wu^T), bf16, as ops::gated_linear() has it, of one product or the sum of two;
/// rows do not depend on each other.
/// \param terms weights [2 * ffn, in]: kGateRows rows of Wg, as many of Wu, the next of Wg and so on. in and ffn are
/// multiples of kGateRows.
void hopper_gated_linear(Context& ctx, std::span<const HopperFactors> terms, View out);
inline constexpr int64_t kGateRows = 8;

/// What a product of 8-bit numbers multiplies, on the device: whole numbers [rows, in] and [columns, in], and what each
/// row's are multiplied with. in is a multiple of kInt8Multiple.
struct Int8Factors {
  const std::byte *x = nullptr, *weight = nullptr;
  const float *x_scales = nullptr, *weight_scales = nullptr;
  int64_t in = 0;
  HopperFactors term{};  ///< added to the product, or null
};
inline constexpr int64_t kInt8Multiple = 16;
/// out [rows, columns], bf16, = (sum of x weight) * x_scale * weight_scale, the sum in whole numbers, + the term, or
/// the gated product of hopper_gated_linear() of such numbers, out [rows, ffn].
void hopper_int8_linear(Context& ctx, const Int8Factors& of, bool gated, View out);

/// A filter of hopper_convolution().
struct HopperFilter {
  const std::byte* weights = nullptr;  ///< bf16 [phases * out, kernel, kernel, in]
  const float* bias = nullptr;         ///< f32 [out]
  int64_t kernel = 0;
  /// Whether it is one of filter_to_phases(), out a multiple of kPhaseOuts, and y [2 * height, 2 * width, out] is what
  /// interleave() makes of the result.
  bool has_phases = false;
};

/// y = conv(x) + bias (+ y if `accumulate`) with stride 1, bf16 images of channels in eights; pixels do not depend on
/// each other. y does not overlap x.
void hopper_convolution(Context& ctx, ConstView x, const HopperFilter& filter, const Padding& padding, bool accumulate,
                        View y);
inline constexpr int64_t kPhaseOuts = 128, kMostHopperTaps = 3;

}  // namespace nostos::cuda
