// Owns what adapters add to a weight beside the weight, which stays as it is: terms of low rank, Kronecker products,
// whole differences, and factors of the outputs. Give a Linear its `update`, and products with it have the terms.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device/context.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos {

/// up down: what LoRA adds to a weight.
struct LowRankTerm {
  Linear down;  ///< [rank, in]
  Linear up;    ///< [out, rank], rows in the weight's own order, scales folded in

  explicit operator bool() const { return down.packed != nullptr; }
};

/// Rows [first_row, first_row + count) of a Kronecker product, and where they stand in a weight: `run` side by side
/// from `begin` on, the next run `stride` further on, as in NamedRows.
struct KroneckerRows {
  int64_t first_row = 0;  ///< of the product
  int64_t count = 0;
  int64_t begin = 0;
  int64_t run = 0;     ///< count where they stand in one piece
  int64_t stride = 0;  ///< likewise

  /// \return where row first_row + `i` is.
  int64_t row(int64_t i) const { return begin + i / run * stride + i % run; }
};

/// Rows of the Kronecker product of `left` [a, b] and `right` [c, d], whose element (i c + k, j d + l) is left(i, j)
/// right(k, l): what LoKr adds to a weight. b d is the weight's `in`.
struct KroneckerTerm {
  Tensor left;   ///< f32 [a, b], scales folded in
  Linear right;  ///< [c, d]
  KroneckerRows rows;
};

/// What a product with a weight W has beside it: y = scale o (x W^T + x T^T) + bias, with T the sum of all terms.
/// Immutable once made: ranks of one process share it. All products take the inputs that the weight does.
struct LinearUpdate {
  LowRankTerm low_rank;                  ///< of all adapters and stacked projections, side by side; or none
  std::vector<KroneckerTerm> kronecker;  ///< in the order in which they are added
  Linear dense;                          ///< [out, in], a whole difference; or none
  Tensor column_scale;                   ///< f32 [out], or none: what brings rows of the weight to DoRA's lengths

  /// \return whether it is a term of low rank and nothing else.
  bool is_low_rank() const { return low_rank && kronecker.empty() && !dense.packed && !column_scale; }
  size_t size_in_bytes() const;
};

namespace ops {

/// Packs up down for a weight that takes `input`. Ranks are filled up with zeros to a multiple of kRankMultiple, in
/// which the kernels of all devices take them. Rounds to `input`. Allocates.
/// \param down f32 [rank, in], on the host \param up f32 [out, rank], likewise
/// \throws Error device as pack_linear(); out_of_memory
LowRankTerm make_low_rank(Context& ctx, ConstView down, ConstView up, DType input);
inline constexpr int64_t kRankMultiple = 8;

/// Packs rows of a Kronecker product likewise. \param left f32 [a, b], on the host \param right f32 [c, d], likewise
KroneckerTerm make_kronecker(Context& ctx, ConstView left, ConstView right, const KroneckerRows& rows, DType input);

/// Packs a whole difference likewise. \param difference f32 [out, in], on the host
Linear make_difference(Context& ctx, ConstView difference, DType input);

/// linear(), gated_linear() where it is one kernel and linear_sum() of weights with updates: those call these. In bf16
/// x down^T is rounded once, and other sums are float32, but where y is bf16 and the device has no kernel that adds
/// the terms before it rounds: there each term is added to y. A row depends on that row of x alone, bit for bit. What
/// stands between the steps takes memory of the context: x down^T, and for the other terms kUpdateScratchBytes at most,
/// but for kFewestUpdateRows rows whatever these take.
void updated_linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate);
void updated_gated_linear(Context& ctx, ConstView x, const Linear& w, View out);
void updated_linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y);
inline constexpr int64_t kUpdateScratchBytes = int64_t{160} << 20, kFewestUpdateRows = 128;

/// \return whether the kernels of `device` that add products before they round serve the update of `w`, which may have
/// none.
bool fuses_update(Device device, const Linear& w);

/// y[:, rows.row(i)] += sum over j of left[k / c, j] * products[:, j, k % c] with k = rows.first_row + i, in float32
/// and in the order of j.
/// \param products f32 [rows, b, c] \param left f32 [a, b] \param y f32 or product_dtype() [rows, out]
void add_kronecker(Context& ctx, ConstView products, ConstView left, const KroneckerRows& rows, View y);

/// y = scale o sums + bias, or y += that if `accumulate`. \param sums f32 [rows, out], may be y if not accumulating
/// \param scale f32 [out] \param bias f32 [out], or null \param y f32 or product_dtype() [rows, out]
void scale_columns(Context& ctx, ConstView sums, ConstView scale, ConstView bias, View y, bool accumulate);

/// What a weight with a low-rank term is multiplied with.
struct UpdateInputs {
  ConstView x;        ///< [rows, in] of the weight's input
  ConstView reduced;  ///< x down^T [rows, rank], or null for a weight without an update
};
/// out = gated_linear() of x W^T + reduced up^T as one kernel. \param w interleaved, as is its update
void fused_gated_linear_sum(Context& ctx, const UpdateInputs& x, const Linear& w, View out);
/// y = the sum of two products and their low-rank terms as one kernel.
void fused_updated_linear_sum(Context& ctx, const UpdateInputs& x_a, const Linear& a, const UpdateInputs& x_b,
                              const Linear& b, View y);

}  // namespace ops
}  // namespace nostos
