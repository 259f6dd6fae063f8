// Checks and dispatches products of 8-bit numbers.
#include "ops/int8_linear.h"

#include "base/error.h"
#include "base/rounding.h"
#include "device/workspace.h"
#include "ops/dispatch.h"

namespace nostos::ops {
namespace {

void check_product(ConstView numbers, ConstView scales, const Int8Weight& w, ConstView y, int64_t columns) {
  check(numbers.dtype() == DType::i8 && numbers.shape().rank() == 2 && w.numbers.dtype() == DType::i8 &&
            numbers.shape()[1] == w.numbers.shape()[1],
        "an 8-bit product is of rows of 8-bit numbers");
  check(scales.elements() == numbers.shape()[0] && w.scales.elements() == w.numbers.shape()[0],
        "rows of 8-bit numbers have a scale each");
  check(y.shape() == Shape({numbers.shape()[0], columns}), "an 8-bit product has a row for each of its inputs' rows");
}

/// Rows that were rounded for the product that comes next on the context's stream.
struct RoundedRows : Workspace {
  using Workspace::Workspace;
};

struct Rounded {
  View numbers, scales;
};

Rounded rounded(Context& ctx, ConstView x, int64_t rotation) {
  const int64_t rows = x.shape()[0];
  const size_t scale_bytes = round_up(static_cast<size_t>(rows) * sizeof(float), size_t{256});
  std::byte* memory = ctx.state<RoundedRows>().at_least(scale_bytes + static_cast<size_t>(x.elements()));
  const Rounded made{View(memory + scale_bytes, DType::i8, x.shape()), View(memory, DType::f32, {rows})};
  quantise_rows(ctx, x, rotation, made.numbers, made.scales);
  return made;
}

}  // namespace

void quantise_rows(Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const Shape& shape = x.shape();
  check(rotation == 0 || rotation == 16 || rotation == 256, "rows are rotated in blocks of 16 or 256");
  check(shape.rank() == 2 && shape[1] % 16 == 0 && (rotation == 0 || shape[1] % rotation == 0) &&
            numbers.shape() == shape && numbers.dtype() == DType::i8 && scales.elements() == shape[0] &&
            scales.dtype() == DType::f32,
        "quantise_rows gives an 8-bit number for each and a scale for each row");
  dispatch<quantise_rows>(ctx, x, rotation, numbers, scales);
}

void int8_linear(Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View y) {
  check_product(numbers, scales, w, y, w.numbers.shape()[0]);
  dispatch<int8_linear>(ctx, numbers, scales, w, y);
}

void int8_gated_linear(Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View out) {
  check_product(numbers, scales, w, out, w.numbers.shape()[0] / 2);
  dispatch_to_gpu<int8_gated_linear>(ctx, numbers, scales, w, out);
}

void rounded_linear(Context& ctx, ConstView x, const Linear& w, View y) {
  if (x.shape()[0] == 0) return;
  const Rounded rows = rounded(ctx, x, w.int8.rotation);
  int8_linear(ctx, rows.numbers, rows.scales, w.int8, y);
}

void rounded_gated_linear(Context& ctx, ConstView x, const Linear& w, View out) {
  if (x.shape()[0] == 0) return;
  const Rounded rows = rounded(ctx, x, w.int8.rotation);
  int8_gated_linear(ctx, rows.numbers, rows.scales, w.int8, out);
}

}  // namespace nostos::ops
