// Checks and dispatches element-wise ops.
#include "ops/elementwise.h"

#include "base/error.h"
#include "ops/capabilities.h"
#include "ops/dispatch.h"
#include "ops/linear.h"

namespace nostos::ops {

void silu_mul(Context& ctx, ConstView gate_up, View out) {
  check(out.shape().rank() == 2 && gate_up.shape() == Shape({out.shape()[0], 2 * out.shape()[1]}),
        "silu_mul halves the channels");
  dispatch<silu_mul>(ctx, gate_up, out);
}

void silu_mul_interleaved(Context& ctx, ConstView gate_up, View out) {
  const int64_t multiple = capabilities(ctx.device()).gated_multiple;
  check(multiple > 0 && out.shape().rank() == 2 && out.shape()[1] % multiple == 0,
        "gates are interleaved where a device has them so");
  check(gate_up.shape() == Shape({out.shape()[0], 2 * out.shape()[1]}), "silu_mul halves the channels");
  dispatch_to_gpu<silu_mul_interleaved>(ctx, gate_up, out);
}

void silu(Context& ctx, ConstView x, View out) {
  check(x.elements() == out.elements(), "silu keeps the number of elements");
  dispatch<silu>(ctx, x, out);
}

void finish_modulation(Context& ctx, View x) {
  check(x.shape().rank() == 2 && x.shape()[1] % 4 == 0, "a modulation row has four parts");
  dispatch<finish_modulation>(ctx, x);
}

void add(Context& ctx, ConstView x, View y) {
  check(x.elements() == y.elements(), "add keeps the number of elements");
  const DType products = product_dtype(ctx.device(), DType::bf16);
  check(x.dtype() == products && (y.dtype() == DType::f32 || y.dtype() == products), "add takes product_dtype()");
  dispatch<add>(ctx, x, y);
}

void add_scalar(Context& ctx, float value, View x) { dispatch<add_scalar>(ctx, value, x); }

void convert(Context& ctx, ConstView x, View out) {
  check(x.elements() == out.elements(), "convert keeps the number of elements");
  const auto is_float = [](DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; };
  check(x.dtype() == out.dtype() || (is_float(out.dtype()) && (is_float(x.dtype()) || x.dtype() == DType::f16)),
        "convert goes among floating-point types");
  dispatch<convert>(ctx, x, out);
}

void fill_rows(Context& ctx, ConstView row, View out) {
  check(out.shape().rank() == 2 && row.elements() == out.shape()[1], "fill_rows copies one row");
  dispatch<fill_rows>(ctx, row, out);
}

void copy_rows(Context& ctx, ConstView from, View to, std::span<const RowRun> runs) {
  const Shape &source = from.shape(), &target = to.shape();
  check(source.rank() >= 2 && source.rank() == target.rank() && from.dtype() == to.dtype(),
        "copy_rows keeps the rank and the dtype");
  for (int axis = 0; axis < source.rank(); ++axis)
    check(axis == 1 || source[axis] == target[axis], "copy_rows keeps every axis but the rows");
  for (const RowRun& run : runs) {
    check(run.count >= 0 && run.from >= 0 && run.to >= 0 && run.from + run.count <= source[1] &&
              run.to + run.count <= target[1],
          "a run lies within the rows");
  }
  dispatch<copy_rows>(ctx, from, to, runs);
}

void clear(Context& ctx, View out) {
  if (out.elements() > 0) dispatch<clear>(ctx, out);
}

void embed(Context& ctx, ConstView table, ConstView ids, View out) {
  check(out.shape() == Shape({ids.elements(), table.shape()[1]}), "embed gives one row an id");
  dispatch<embed>(ctx, table, ids, out);
}

void guide(Context& ctx, ConstView positive, ConstView negative, float guidance, View out, View token_squares) {
  check(positive.shape().rank() == 2 && positive.shape() == negative.shape() && positive.shape() == out.shape(),
        "guide keeps the shape");
  check(!token_squares || token_squares.shape() == Shape({out.shape()[0], 2}), "guide gives two sums a token");
  dispatch<guide>(ctx, positive, negative, guidance, out, token_squares);
}

void cap_norm(Context& ctx, ConstView token_squares, float max_norm_ratio, View x) {
  check(token_squares.shape().rank() == 2 && token_squares.shape()[1] == 2, "cap_norm takes two sums a token");
  check(max_norm_ratio > 0, "cap_norm's ratio is positive");
  dispatch<cap_norm>(ctx, token_squares, max_norm_ratio, x);
}

void euler_step(Context& ctx, ConstView model_output, ConstView delta, View x) {
  check(model_output.shape() == x.shape(), "euler_step keeps the shape");
  check(delta.elements() == 1, "euler_step takes one delta");
  dispatch<euler_step>(ctx, model_output, delta, x);
}

void mix_noise(Context& ctx, ConstView clean, ConstView noise, ConstView level, ConstView mask, View x) {
  check(clean.shape() == x.shape() && noise.shape() == x.shape() && (!mask || mask.shape() == x.shape()),
        "mix_noise keeps the shape");
  check(level.elements() == 1, "mix_noise takes one level");
  dispatch<mix_noise>(ctx, clean, noise, level, mask, x);
}

}  // namespace nostos::ops
