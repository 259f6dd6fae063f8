// Owns products of 8-bit whole numbers: a row of inputs is rotated and rounded to 8 bits, sums are whole numbers, and
// the scales of the row and of the output make numbers of them.
#pragma once

#include <concepts>

#include "device/context.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Inputs in a block of the rotations that quantise_rows() knows.
inline constexpr int64_t kNarrowRotation = 16, kWideRotation = 256;
/// \return inputs in a block of the rotation of weights that are rounded here.
inline int64_t int8_rotation(int64_t in) { return in % kWideRotation == 0 ? kWideRotation : kNarrowRotation; }
/// Rows whose largest rotated number is smaller count as zeros: 127 / max would overflow.
inline constexpr float kSmallestInt8Row = 0x1p-100f;

/// \return whether int8_linear() takes a weight [out, in]: outputs in eights and inputs in whole rotations.
inline bool takes_int8(const Shape& weight) { return weight[0] % 8 == 0 && weight[1] % kNarrowRotation == 0; }

/// Rounds rows to 8 bits, each by itself: y = x H in blocks of `rotation` inputs, in float32, from the lowest of an
/// index's digits to the base 4 to the highest; scale = max |y| / 127; number = y * (127 / max |y|) to the nearest,
/// halves to even. A row of zeros has the scale 0. A row with a number that is not finite has zeros, and a
/// scale that is not finite: so are its products then. The bits are the same on every device.
/// \param x f32 or bf16 [rows, in], in a multiple of the rotation. \param rotation 0 (none), narrow or wide
/// \param numbers i8 [rows, in]. \param scales f32 [rows]
/// Source of rotation and scales: arXiv:2512.03673.
void quantise_rows(Context& ctx, ConstView x, int64_t rotation, View numbers, View scales);

/// Rows that quantise_rows() made.
struct RoundedRows {
  ConstView numbers;  ///< i8 [rows, in]
  ConstView scales;   ///< f32 [rows]
};

/// What a product is multiplied with: rows of the weight's dtype, or rows that are rounded already.
struct ProductRows {
  ConstView numbers;   ///< [rows, in]: of the weight's dtype, or i8
  ConstView scales{};  ///< f32 [rows] beside i8, else null

  template <std::convertible_to<ConstView> Rows>
  ProductRows(const Rows& rows) : numbers(rows) {}
  ProductRows(ConstView rounded, ConstView scales_of_rows) : numbers(rounded), scales(scales_of_rows) {}

  ProductRows rows(int64_t begin, int64_t count) const {
    return {numbers.rows(begin, count), scales ? scales.rows(begin, count) : scales};
  }
};

/// \return whether products with `w` take rows that were rounded with the wide rotation: it has 8-bit numbers, and
/// neither an adapter nor a watch wants the rows as they were.
inline bool takes_rounded_rows(const Linear& w) {
  return w.int8 && w.int8.rotation == kWideRotation && !w.update && !w.watch;
}
/// linear() of either kind of rows. \param y product_dtype() where they are rounded
void multiply(Context& ctx, const ProductRows& x, const Linear& w, View y, bool accumulate = false);
/// gated_linear() of either kind of rows.
void multiply_gated(Context& ctx, const ProductRows& x, const GatedLinear& w, View scratch, View out);

/// y = (numbers W^T) * scale of the row * scale of the output, multiplied in float32 in this order. The sum is exact: a
/// row of y depends on that row alone, whatever the kernel.
/// \param x rounded with the weight's rotation. \param y product_dtype() of bf16 [rows, out]
void int8_linear(Context& ctx, const RoundedRows& x, const Int8Weight& w, View y);

/// A low-rank term beside a product of 8-bit numbers, added in float32 before the result is rounded; or none.
struct Int8Term {
  ConstView reduced{};         ///< bf16 [rows, rank]: x down^T
  const Linear* up = nullptr;  ///< bf16 [out, rank]
};

// One kernel each, where Capabilities::summed_multiple and gated_multiple allow it, for ranks up to this.
inline constexpr int64_t kMostInt8TermRank = 128;

/// int8_linear() with a term. \param y bf16 [rows, out]
void int8_linear_sum(Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term, View y);
/// out = silu(gate) * up of these products. \param w interleaved_rows(). \param out bf16 [rows, out / 2]
void int8_gated_linear(Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term, View out);

/// linear() of a weight with 8-bit numbers, without its update: x is rounded by quantise_rows() in scratch memory of
/// the context. \param x f32 or bf16 [rows, in]. \param w without a bias. \param y f32 or product_dtype() [rows, out]
void rounded_linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate);
/// The same with a term, where it is one kernel.
void rounded_linear_sum(Context& ctx, ConstView x, const Linear& w, const Int8Term& term, View y);
/// The same of gated_linear().
void rounded_gated_linear(Context& ctx, ConstView x, const Linear& w, const Int8Term& term, View out);
/// Bytes of scratch memory of a context that these take at most, whatever the number of rows.
inline constexpr int64_t kRoundedScratchBytes = int64_t{192} << 20;

}  // namespace nostos::ops
