// Checks and dispatches products of 8-bit numbers.
#include "ops/int8_linear.h"

#include "base/error.h"
#include "ops/dispatch.h"

namespace nostos::ops {
namespace {

void check_product(ConstView numbers, ConstView scales, const Int8Weight& w, ConstView y, int64_t columns) {
  check(numbers.dtype() == DType::i8 && numbers.shape().rank() == 2 && numbers.shape()[1] == w.in &&
            scales.elements() == numbers.shape()[0] && scales.dtype() == DType::f32,
        "an 8-bit product is of rows of 8-bit numbers and their scales");
  check(w.numbers.shape() == Shape({w.out, w.in}) && w.scales.elements() == w.out,
        "an 8-bit weight has a scale for each of its rows");
  check(y.shape() == Shape({numbers.shape()[0], columns}), "an 8-bit product has a row for each of its inputs' rows");
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
  check_product(numbers, scales, w, y, w.out);
  dispatch<int8_linear>(ctx, numbers, scales, w, y);
}

void int8_gated_linear(Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View out) {
  check_product(numbers, scales, w, out, w.out / 2);
  dispatch_to_gpu<int8_gated_linear>(ctx, numbers, scales, w, out);
}

}  // namespace nostos::ops
