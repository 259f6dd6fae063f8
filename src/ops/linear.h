// Owns the matrix product with a weight: packing and y = x W^T + b.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "device/context.h"
#include "ops/capabilities.h"
#include "ops/packed_weight.h"
#include "tensor/tensor.h"

namespace nostos {

/// Which rows of a packed weight are those of one checkpoint matrix, or of a part of it: `run` side by side, the next
/// run `stride` further on.
struct NamedRows {
  std::string name;         ///< of the checkpoint's matrix, without the prefix of its file
  int64_t begin = 0;        ///< where the first row is
  int64_t count = 0;        ///< of rows
  int64_t run = 0;          ///< count where they lie in one piece
  int64_t stride = 0;       ///< likewise
  int64_t from_row = 0;     ///< of the checkpoint's matrix: the first
  int64_t from_column = 0;  ///< likewise; the packed weight has as many columns as it takes inputs

  /// \return where row `from_row` + `i` of the checkpoint's matrix is.
  int64_t row(int64_t i) const { return begin + i / run * stride + i % run; }

  friend bool operator==(const NamedRows&, const NamedRows&) = default;
};

struct LinearUpdate;

/// A weight [out, in] of 8-bit numbers, for products whose inputs are rounded to 8 bits, too: see ops/int8_linear.h.
/// number * scale of its row, rotated as in a StoredMatrix with WeightScales::each_row.
struct Int8Weight {
  int64_t rotation = 0;  ///< inputs in a block, see WeightFormat; 0 without one
  ConstView numbers{};   ///< i8 [out, in]; null where there are none. Owned by the model's weights
  ConstView scales{};    ///< f32 [out]

  explicit operator bool() const { return static_cast<bool>(numbers); }
};

struct Linear;
/// Sees what a weight is multiplied with, before each product, for measuring. It may wait for the device.
using InputWatch = std::function<void(Context& ctx, const Linear& w, ConstView x)>;

/// A weight matrix [out, in] in the backend's own layout, with an optional bias and what adapters add to its products.
/// Immutable once packed: ranks of one process share it.
struct Linear {
  int64_t in = 0;
  int64_t out = 0;
  DType input = DType::f32;  ///< of what it is multiplied with: f32 or bf16
  std::shared_ptr<const PackedWeight> packed;
  ConstView bias = {};               ///< f32 [out], or null; owned by the model's weights
  Int8Weight int8 = {};              ///< its numbers where inputs are rounded to 8 bits; null elsewhere
  std::vector<NamedRows> rows = {};  ///< where they come from; every row once, or none where nobody has named them
  std::shared_ptr<const InputWatch> watch = {};  ///< of linear() and gated_linear(); null but for measuring
  /// What adapters add to products with it at the moment. It is all that ever changes of a weight: between drawings, by
  /// adapt_weights().
  mutable std::shared_ptr<const LinearUpdate> update = {};

  size_t size_in_bytes() const;
};

/// The first half of a SwiGLU layer.
struct GatedShape {
  int64_t in = 0, ffn = 0;
  bool few_rows = false;  ///< whether it is for a prompt's tokens rather than a picture's: less than a hundred
};

/// The two matrices of a SwiGLU layer's first half, [ffn, in] each, in the backend's own layout; shared as a Linear.
struct GatedLinear {
  Linear gate_up;         ///< [2 * ffn, in]
  bool is_fused = false;  ///< whether one kernel makes the product with both and gates it
};

namespace ops {

/// \throws Error device if `ctx`'s device has no products of `input`, f32 or bf16
void require_products(const Context& ctx, DType input);

/// Packs `weight` [out, in], f32 or bf16, for `ctx`'s device; the source is not needed afterwards. Allocates.
/// \throws Error device if the CPU has no bf16 matrix product and dtype is bf16; out_of_memory
Linear pack_linear(Context& ctx, ConstView weight);

/// \return `weight` [out, in] to be used where it lies, in memory of the caller's that holds it whenever it is used.
/// \throws Error device without Capabilities::borrowed_weights
Linear borrow_linear(Context& ctx, ConstView weight);

/// y = x W^T + b, or y += x W^T + b if `accumulate`; W with its update, as in all products here. Sums are float32; a
/// row of y depends on that row of x alone, bit for bit, whatever the number of rows and threads.
/// \param x [rows, in] of w.input. \param y f32 or product_dtype() [rows, out], not overlapping x.
void linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate = false);

/// \return whether gated_linear() is one kernel on `device`, which needs no scratch, and a weight with gates and what
/// they gate side by side.
bool fuses_gated_linear(Device device, DType dtype, const GatedShape& shape);
/// Brings `weight` [2 * ffn, in]: gate rows, then up rows, into that order, where it is fused.
void interleave_gates(Context& ctx, ConstView weight, View out);
/// \return where `device` has the rows of gate and up [ffn, in] after that: in turn, Capabilities::gated_multiple of
/// each.
std::vector<NamedRows> interleaved_rows(Device device, const std::string& gate, const std::string& up, int64_t ffn);

/// out = silu(x Wg^T) * (x Wu^T), silu(x) = x / (1 + exp(-x)); a row depends on that row of x alone, bit for bit.
/// \param x [rows, in] of the weights' dtype. \param scratch product_dtype() [rows, 2 * ffn], or null where it is
/// fused.
/// \param out [rows, ffn] of the weights' dtype, not overlapping.
void gated_linear(Context& ctx, ConstView x, const GatedLinear& w, View scratch, View out);
/// The same where it is fused. \param w [2 * ffn, in], interleaved, and so is its update.
void fused_gated_linear(Context& ctx, ConstView x, const Linear& w, View out);

/// \return whether linear_sum() is one kernel on `device`.
bool fuses_linear_sum(Device device, const Linear& a, const Linear& b);
/// \return the dtype of linear_sum()'s result: product_dtype() where it is one kernel, f32 elsewhere.
DType linear_sum_dtype(Device device, const Linear& a, const Linear& b);
/// y = x_a A^T + x_b B^T, without biases. Sums are float32; a row of y depends on those rows of x_a and x_b alone, bit
/// for bit.
/// \param x_a [rows, a.in] and \param x_b [rows, b.in] of the weights' dtype. \param y linear_sum_dtype() [rows, out],
/// not overlapping.
void linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y);
/// The same of weights without updates, where it is one kernel.
void fused_linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y);

/// \return the dtype in which a product that only the next op reads is best kept: that of the weights on a GPU, whose
/// ops are bound by memory; f32 on the CPU.
DType product_dtype(Device device, DType weights);

/// \return whether the context's device multiplies bf16 matrices natively: see Capabilities.
inline bool has_bf16_products(const Context& ctx) { return capabilities(ctx.device()).bf16_products; }

/// \return GFLOP/s of `ctx`'s matrix product of [rows, in] by [in, out] in `dtype`, the best of a few runs: the
/// ceiling that the model's own rate is compared with.
double measure_linear_gflops(Context& ctx, DType dtype, int64_t rows, int64_t in, int64_t out);

}  // namespace ops
}  // namespace nostos
