// Checks and dispatches matrix products.
#include "ops/linear.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>

#include "base/error.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/int8_linear.h"
#include "ops/linear_update.h"
#include "tensor/transfer.h"

namespace nostos {

size_t Linear::size_in_bytes() const { return packed ? packed->size_in_bytes() : 0; }

namespace ops {

void require_products(const Context& ctx, DType input) {
  check(input == DType::f32 || input == DType::bf16, "weights are f32 or bf16");
  require(input != DType::bf16 || has_bf16_products(ctx), ErrorKind::device,
          "this CPU has no bf16 matrix product (AVX-512 BF16); use --precision f32");
}

Linear pack_linear(Context& ctx, ConstView weight) {
  check(weight.shape().rank() == 2, "a weight is a matrix");
  require_products(ctx, weight.dtype());
  return dispatch<pack_linear>(ctx, weight);
}

Linear borrow_linear(Context& ctx, ConstView weight) {
  check(weight.shape().rank() == 2, "a weight is a matrix");
  require(capabilities(ctx.device()).borrowed_weights, ErrorKind::device, "weights cannot be streamed to {}",
          to_string(ctx.device()));
  return dispatch_to_gpu<borrow_linear>(ctx, weight);
}

void linear(Context& ctx, ConstView x, const Linear& w, View y, bool accumulate) {
  check(x.dtype() == w.input, "linear takes the inputs that the weight is for");
  check(y.dtype() == DType::f32 || y.dtype() == product_dtype(ctx.device(), w.input),
        "linear gives f32 or product_dtype()");
  check(x.shape() == Shape({x.shape()[0], w.in}) && y.shape() == Shape({x.shape()[0], w.out}),
        "linear's shapes do not match");
  if (w.watch) (*w.watch)(ctx, w, x);
  if (w.update) return updated_linear(ctx, x, w, y, accumulate);
  if (w.int8) return rounded_linear(ctx, x, w, y, accumulate);
  dispatch<linear>(ctx, x, w, y, accumulate);
}

void interleave_gates(Context& ctx, ConstView weight, View out) {
  check(weight.shape().rank() == 2 && weight.shape()[0] % 2 == 0, "gate and up are matrices of one shape");
  check(out.shape() == weight.shape() && out.dtype() == weight.dtype(), "interleaving moves rows alone");
  dispatch_to_gpu<interleave_gates>(ctx, weight, out);
}

std::vector<NamedRows> interleaved_rows(Device device, const std::string& gate, const std::string& up, int64_t ffn) {
  const int64_t run = capabilities(device).gated_multiple;
  check(run > 0, "gates are interleaved where gated_linear() is one kernel");
  return {{gate, 0, ffn, run, 2 * run}, {up, run, ffn, run, 2 * run}};
}

// Few rows: measured on an H200, at 64 rows, where reading the weights is all, the kernel's large tiles take 0.4 ms of
// the full text encoder's 4.4 ms more than the library's small ones.
bool fuses_gated_linear(Device device, DType dtype, const GatedShape& shape) {
  const int64_t multiple = capabilities(device).gated_multiple;
  return multiple > 0 && dtype == DType::bf16 && shape.in % multiple == 0 && shape.ffn % multiple == 0 &&
         !shape.few_rows;
}

namespace {

void check_gated(ConstView x, const Linear& gate_up, ConstView out) {
  const int64_t rows = x.shape()[0];
  check(x.dtype() == gate_up.input && out.dtype() == gate_up.input, "gated_linear keeps the inputs' dtype");
  check(x.shape() == Shape({rows, gate_up.in}) && out.shape() == Shape({rows, gate_up.out / 2}),
        "gated_linear's shapes do not match");
}

}  // namespace

void gated_linear(Context& ctx, ConstView x, const GatedLinear& w, View scratch, View out) {
  check_gated(x, w.gate_up, out);
  if (w.is_fused) return fused_gated_linear(ctx, x, w.gate_up, out);
  linear(ctx, x, w.gate_up, scratch);
  silu_mul(ctx, scratch, out);
}

void fused_gated_linear(Context& ctx, ConstView x, const Linear& w, View out) {
  check_gated(x, w, out);
  if (w.watch) (*w.watch)(ctx, w, x);
  if (w.update) return updated_gated_linear(ctx, x, w, out);
  if (w.int8) return rounded_gated_linear(ctx, x, w, {}, out);
  dispatch_to_gpu<fused_gated_linear>(ctx, x, w, out);
}

bool fuses_linear_sum(Device device, const Linear& a, const Linear& b) {
  const int64_t multiple = capabilities(device).summed_multiple;
  return multiple > 0 && a.input == DType::bf16 && b.input == DType::bf16 &&
         std::ranges::all_of(std::array{a.in, a.out, b.in}, [&](int64_t width) { return width % multiple == 0; }) &&
         fuses_update(device, a) && fuses_update(device, b);
}

DType linear_sum_dtype(Device device, const Linear& a, const Linear& b) {
  return fuses_linear_sum(device, a, b) ? product_dtype(device, a.input) : DType::f32;
}

void linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y) {
  check(!a.bias && !b.bias, "a sum of products has no bias");
  check(!a.int8 && !b.int8, "products of a sum are not rounded to 8 bits");
  check(y.dtype() == linear_sum_dtype(ctx.device(), a, b), "linear_sum gives linear_sum_dtype()");
  if (fuses_linear_sum(ctx.device(), a, b)) {
    return a.update || b.update ? updated_linear_sum(ctx, x_a, a, x_b, b, y) : fused_linear_sum(ctx, x_a, a, x_b, b, y);
  }
  linear(ctx, x_a, a, y);
  linear(ctx, x_b, b, y, true);
}

void fused_linear_sum(Context& ctx, ConstView x_a, const Linear& a, ConstView x_b, const Linear& b, View y) {
  const int64_t rows = y.shape()[0];
  check(x_a.dtype() == a.input && x_b.dtype() == b.input && y.dtype() == product_dtype(ctx.device(), a.input),
        "linear_sum takes the inputs that the weights are for");
  check(x_a.shape() == Shape({rows, a.in}) && x_b.shape() == Shape({rows, b.in}) && a.out == b.out &&
            y.shape() == Shape({rows, a.out}),
        "linear_sum's shapes do not match");
  dispatch_to_gpu<fused_linear_sum>(ctx, x_a, a, x_b, b, y);
}

DType product_dtype(Device device, DType weights) { return device.kind == DeviceKind::cuda ? weights : DType::f32; }

double measure_linear_gflops(Context& ctx, DType dtype, int64_t rows, int64_t in, int64_t out) {
  Tensor weight(ctx.device(), dtype, {out, in}), x(ctx.device(), dtype, {rows, in});
  Tensor y(ctx.device(), product_dtype(ctx.device(), dtype), {rows, out});
  uint32_t state = 1;
  for (Tensor* tensor : {&weight, &x}) {
    Tensor host(Device{}, DType::f32, tensor->shape()), source(ctx.device(), DType::f32, tensor->shape());
    float* values = host.data<float>();
    for (int64_t i = 0; i < tensor->shape().elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      values[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1.f;
    }
    upload(ctx, host, source);
    convert(ctx, source, *tensor);
  }
  const Linear packed = pack_linear(ctx, weight);
  double best_s = std::numeric_limits<double>::infinity();
  constexpr int kRuns = 6;  // the first warms up
  for (int run = 0; run < kRuns; ++run) {
    ctx.synchronize("measurement");
    const auto begin = std::chrono::steady_clock::now();
    linear(ctx, x, packed, y);
    ctx.synchronize("measurement");
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (run > 0) best_s = std::min(best_s, seconds);
  }
  return 2e-9 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out) / best_s;
}

}  // namespace ops
}  // namespace nostos
