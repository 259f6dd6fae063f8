// Owns normalisations and what is fused with them.
#pragma once

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// out = x / sqrt(mean(x^2) + eps) * weight [* scale], row by row.
/// \param x f32 [rows, channels]. \param weight f32 [channels]. \param scale f32 [channels] or null. \param out f32 or
/// bf16 [rows, channels].
void rms_norm(Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out);

/// out = (x - mean) / sqrt(var + eps) * scale, row by row, without affine weights. Shapes as rms_norm.
void layer_norm_scaled(Context& ctx, ConstView x, ConstView scale, float eps, View out);

/// The norm that reads what was just written: out = rms_norm(x) * weight [* scale], as rms_norm().
struct NextNorm {
  ConstView weight;  ///< f32 [channels], or null: out = x
  ConstView scale;   ///< f32 [channels] or null
  View out;          ///< f32 or bf16 [rows, channels], or null for no such norm
  /// f32 [rows], or null. Else out is i8, and both are what quantise_rows() makes of the norm in bf16 with the wide
  /// rotation: where rounds_next_norm(), and with a weight.
  View scales{};

  /// \return the norm of rows [begin, begin + count) of x.
  NextNorm rows(int64_t begin, int64_t count) const {
    return {weight, scale, out ? out.rows(begin, count) : out, scales ? scales.rows(begin, count) : scales};
  }
};

/// \return whether NextNorm rounds rows of `channels` to 8 bits on `device`.
bool rounds_next_norm(Device device, int64_t channels);

/// The norm of what is added to the residual stream.
struct GatedNorm {
  ConstView weight;  ///< f32 [channels]
  ConstView gate;    ///< f32 [channels] or null for no gate
  float eps = 0;     ///< also of the norm that follows
};

/// x += gate * rms_norm(projected) * weight, row by row; then `next` of x while its rows are at hand.
/// \param projected f32 or product_dtype() [rows, channels]. \param x f32 [rows, channels], in place.
void add_gated_rms_norm(Context& ctx, ConstView projected, const GatedNorm& norm, View x, const NextNorm& next = {});

/// What is added to the residual stream as it is.
struct GatedBias {
  ConstView bias, gate;  ///< f32 [channels]
  float eps = 0;         ///< of the norm that follows
};

/// x += gate * (projected + bias), row by row; then `next` of x while its rows are at hand.
/// \param projected f32 or product_dtype() [rows, channels]. \param x f32 [rows, channels], in place.
void add_gated(Context& ctx, ConstView projected, const GatedBias& by, View x, const NextNorm& next = {});

/// An adaptive layer norm (adaLN): (1 + scale) * (x - mean) / sqrt(var + eps) + shift, row by row.
struct AdaptiveNorm {
  ConstView scale, shift;  ///< f32 [channels]
  float eps = 0;
};

/// out = norm(x). \param x f32 [rows, channels]. \param out f32 or bf16 [rows, channels].
void adaptive_layer_norm(Context& ctx, ConstView x, const AdaptiveNorm& norm, View out);

/// x += gate * projected, row by row; then out = next(x) while its rows are at hand.
/// \param projected f32 or product_dtype() [rows, channels]. \param gate f32 [channels]. \param x f32 [rows, channels],
/// in place. \param out f32 or bf16 [rows, channels], or null for no such norm.
void add_gated_adaptive_norm(Context& ctx, ConstView projected, ConstView gate, View x, const AdaptiveNorm& next,
                             View out);

/// Sums of each image row and channel group, float64: the parts of GroupNorm's statistics that are added in row order,
/// so that the result does not depend on how rows are dealt to ranks.
/// \param x f32 or product_dtype() [height, width, channels]. \param sums f64 [height, groups, 2]: sum, sum of squares.
void group_norm_row_sums(Context& ctx, ConstView x, View sums);

/// What group_norm_apply() does to a normalised channel.
struct GroupNorm {
  ConstView weight, bias;  ///< f32 [channels]
  float eps = 0;
  bool silu = false;  ///< whether SiLU follows
};

/// out = (x - mean_g) / sqrt(var_g + eps) * weight + bias, then SiLU if wanted.
/// \param sums f64 [rows, groups, 2] of the whole image. \param row_pixels pixels that each of their rows is of. \param
/// x f32 or product_dtype() [height, width, channels], any part of the image. \param out f32 or bf16.
void group_norm_apply(Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, const GroupNorm& norm, View out);

}  // namespace nostos::ops
