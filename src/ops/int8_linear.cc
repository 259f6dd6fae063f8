// Checks and dispatches products of 8-bit numbers.
#include "ops/int8_linear.h"

#include <algorithm>

#include "base/error.h"
#include "base/rounding.h"
#include "device/workspace.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"

namespace nostos::ops {
namespace {

void check_product(const RoundedRows& x, const Int8Weight& w, ConstView y, int64_t columns) {
  const auto& [numbers, scales] = x;
  check(numbers.dtype() == DType::i8 && numbers.shape().rank() == 2 && w.numbers.dtype() == DType::i8 &&
            w.numbers.shape().rank() == 2 && numbers.shape()[1] == w.numbers.shape()[1],
        "an 8-bit product is of rows of 8-bit numbers");
  check(takes_int8(w.numbers.shape()), "an 8-bit product has outputs in eights and inputs in sixteens");
  check(scales.dtype() == DType::f32 && scales.elements() == numbers.shape()[0] && w.scales.dtype() == DType::f32 &&
            w.scales.elements() == w.numbers.shape()[0],
        "rows of 8-bit numbers have a scale each");
  check(y.shape() == Shape({numbers.shape()[0], columns}), "an 8-bit product has a row for each of its inputs' rows");
}

void check_term(const RoundedRows& x, const Int8Weight& w, const Int8Term& term) {
  if (term.up == nullptr) return;
  check(term.up->in <= kMostInt8TermRank && term.up->input == DType::bf16 && term.up->out == w.numbers.shape()[0] &&
            term.reduced.dtype() == DType::bf16 && term.reduced.shape() == Shape({x.numbers.shape()[0], term.up->in}),
        "a low-rank term is for a product of its shape");
}

/// Rows that were rounded for the product that comes next on the context's stream.
struct RoundedScratch : Workspace {
  using Workspace::Workspace;
};
/// Products that are not what the caller wants yet.
struct ProductScratch : Workspace {
  using Workspace::Workspace;
};

RoundedRows rounded(Context& ctx, ConstView x, int64_t rotation) {
  const int64_t rows = x.shape()[0];
  const size_t scale_bytes = round_up(static_cast<size_t>(rows) * sizeof(float), size_t{256});
  std::byte* memory = ctx.state<RoundedScratch>().at_least(scale_bytes + static_cast<size_t>(x.elements()));
  const View numbers(memory + scale_bytes, DType::i8, x.shape()), scales(memory, DType::f32, {rows});
  quantise_rows(ctx, x, rotation, numbers, scales);
  return {numbers, scales};
}

/// Calls body(first, rounded rows) for as many rows at a time as scratch memory holds: all of them but for the largest
/// pictures.
/// \param other_bytes of scratch that a row takes beside its numbers
template <class Body>
void by_rows(Context& ctx, ConstView x, int64_t rotation, int64_t other_bytes, const Body& body) {
  const int64_t rows = x.shape()[0], row_bytes = x.shape()[1] + int64_t{sizeof(float)} + other_bytes;
  // Whole tiles of every kernel.
  constexpr int64_t kTile = 384;
  const int64_t at_once = std::max((kRoundedScratchBytes - 256) / row_bytes / kTile, int64_t{1}) * kTile;
  for (int64_t first = 0; first < rows; first += at_once) {
    const int64_t count = std::min(at_once, rows - first);
    body(first, count, rounded(ctx, x.rows(first, count), rotation));
  }
}

Int8Term rows_of(const Int8Term& term, int64_t first, int64_t count) {
  return term.up == nullptr ? term : Int8Term{term.reduced.rows(first, count), term.up};
}

}  // namespace

void quantise_rows(Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const Shape& shape = x.shape();
  check(rotation == 0 || rotation == kNarrowRotation || rotation == kWideRotation,
        "rows are rotated in blocks of 16 or 256");
  check(shape.rank() == 2 && shape[1] % kNarrowRotation == 0 && (rotation == 0 || shape[1] % rotation == 0) &&
            numbers.shape() == shape && numbers.dtype() == DType::i8 && scales.elements() == shape[0] &&
            scales.dtype() == DType::f32,
        "quantise_rows gives an 8-bit number for each and a scale for each row");
  dispatch<quantise_rows>(ctx, x, rotation, numbers, scales);
}

void multiply(Context& ctx, const ProductRows& x, const Linear& w, View y, bool accumulate) {
  if (!x.scales) return linear(ctx, x.numbers, w, y, accumulate);
  check(takes_rounded_rows(w) && !accumulate, "the weight takes rounded rows");
  int8_linear(ctx, {x.numbers, x.scales}, w.int8, y);
}

void multiply_gated(Context& ctx, const ProductRows& x, const GatedLinear& w, View scratch, View out) {
  if (!x.scales) return gated_linear(ctx, x.numbers, w, scratch, out);
  check(takes_rounded_rows(w.gate_up), "the weight takes rounded rows");
  if (w.is_fused) return int8_gated_linear(ctx, {x.numbers, x.scales}, w.gate_up.int8, {}, out);
  int8_linear(ctx, {x.numbers, x.scales}, w.gate_up.int8, scratch);
  silu_mul(ctx, scratch, out);
}

void int8_linear(Context& ctx, const RoundedRows& x, const Int8Weight& w, View y) {
  check_product(x, w, y, w.numbers.shape()[0]);
  check(y.dtype() == product_dtype(ctx.device(), DType::bf16), "int8_linear gives product_dtype()");
  dispatch<int8_linear>(ctx, x, w, y);
}

void int8_linear_sum(Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term, View y) {
  check_product(x, w, y, w.numbers.shape()[0]);
  check_term(x, w, term);
  check(y.dtype() == DType::bf16, "int8_linear_sum gives bf16");
  dispatch_to_gpu<int8_linear_sum>(ctx, x, w, term, y);
}

void int8_gated_linear(Context& ctx, const RoundedRows& x, const Int8Weight& w, const Int8Term& term, View out) {
  check_product(x, w, out, w.numbers.shape()[0] / 2);
  check_term(x, w, term);
  check(out.dtype() == DType::bf16, "int8_gated_linear gives bf16");
  dispatch_to_gpu<int8_gated_linear>(ctx, x, w, term, out);
}

void rounded_linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  check(!w.bias, "a product of 8-bit numbers has no bias");
  const DType made = product_dtype(ctx.device(), DType::bf16);
  const bool is_plain = !accumulate && y.dtype() == made;
  const int64_t row_bytes = is_plain ? 0 : w.out * static_cast<int64_t>(size_bytes(made));
  by_rows(ctx, x, w.int8.rotation, row_bytes, [&](int64_t first, int64_t count, const RoundedRows& rows) {
    const View to = y.rows(first, count);
    if (is_plain) return int8_linear(ctx, rows, w.int8, to);
    const View products(ctx.state<ProductScratch>().at_least(static_cast<size_t>(count * row_bytes)), made, to.shape());
    int8_linear(ctx, rows, w.int8, products);
    accumulate ? add(ctx, products, to) : convert(ctx, products, to);
  });
}

void rounded_linear_sum(Context& ctx, ConstView x, const Linear& w, const Int8Term& term, View y) {
  by_rows(ctx, x, w.int8.rotation, 0, [&](int64_t first, int64_t count, const RoundedRows& rows) {
    int8_linear_sum(ctx, rows, w.int8, rows_of(term, first, count), y.rows(first, count));
  });
}

void rounded_gated_linear(Context& ctx, ConstView x, const Linear& w, const Int8Term& term, View out) {
  by_rows(ctx, x, w.int8.rotation, 0, [&](int64_t first, int64_t count, const RoundedRows& rows) {
    int8_gated_linear(ctx, rows, w.int8, rows_of(term, first, count), out.rows(first, count));
  });
}

}  // namespace nostos::ops
