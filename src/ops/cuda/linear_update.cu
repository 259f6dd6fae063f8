// Implements what is added beside a weight: sums over the left factor of a Kronecker product, factors of outputs, and
// gates that stand in turn with what they gate.
#include "ops/linear_update.h"

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/device_op.h"
#include "ops/elementwise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

__device__ int64_t this_item() { return static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; }

/// Rows of the left factor that a thread sums for: each product is read once for so many.
constexpr int kLeftRows = 8;

struct KroneckerShape {
  int a, b, c;
  int64_t out;
};

/// One thread a row of y, kLeftRows rows of `left` and a column of `right`'s product.
template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    add_kronecker_kernel(const float* products, const float* left, KroneckerShape shape, KroneckerRows rows,
                         int64_t items, Out* y) {
  const int64_t item = this_item();
  if (item >= items) return;
  const int groups = (shape.a + kLeftRows - 1) / kLeftRows;
  const int k = static_cast<int>(item % shape.c), first = static_cast<int>(item / shape.c % groups) * kLeftRows;
  const int64_t row = item / shape.c / groups;
  const float* from = products + row * shape.b * shape.c + k;
  const float* factors = left + static_cast<int64_t>(first) * shape.b;
  const int count = min(kLeftRows, shape.a - first);
  float sums[kLeftRows] = {};
  for (int j = 0; j < shape.b; ++j) {
    const float product = from[static_cast<int64_t>(j) * shape.c];
#pragma unroll
    for (int i = 0; i < kLeftRows; ++i) {
      if (i < count) sums[i] += __ldg(factors + i * shape.b + j) * product;
    }
  }
#pragma unroll
  for (int i = 0; i < kLeftRows; ++i) {
    const int64_t at = static_cast<int64_t>(first + i) * shape.c + k - rows.first_row;
    if (i >= count || at < 0 || at >= rows.count) continue;
    Out* to = y + row * shape.out + rows.begin + at / rows.run * rows.stride + at % rows.run;
    put(as_float(*to) + sums[i], to);
  }
}

template <class Out>
__global__ void __launch_bounds__(kBlockThreads)
    scale_columns_kernel(const float* sums, const float* scale, const float* bias, int64_t elements, int64_t out,
                         bool accumulate, Out* y) {
  const int64_t item = this_item();
  if (item >= elements) return;
  const int64_t column = item % out;
  const float scaled = scale[column] * sums[item] + (bias != nullptr ? bias[column] : 0.f);
  put(accumulate ? as_float(y[item]) + scaled : scaled, y + item);
}

/// One thread kVector gates.
template <class In, class Out>
__global__ void __launch_bounds__(kBlockThreads)
    silu_mul_interleaved_kernel(const In* gate_up, int64_t vectors, Out* out) {
  static_assert(kGateRows == kVector);
  const int64_t item = this_item();
  if (item >= vectors) return;
  float gate[kVector], up[kVector];
  load<kVector>(gate_up + 2 * item * kVector, gate);
  load<kVector>(gate_up + (2 * item + 1) * kVector, up);
#pragma unroll
  for (int i = 0; i < kVector; ++i) gate[i] = silu_of<Out>(gate[i]) * up[i];
  store<kVector>(gate, out + item * kVector);
}

}  // namespace

void run(OnCuda<add_kronecker>, Context& ctx, ConstView products, ConstView left, const KroneckerRows& rows, View y) {
  const KroneckerShape shape{static_cast<int>(left.shape()[0]), static_cast<int>(products.shape()[1]),
                             static_cast<int>(products.shape()[2]), y.shape()[1]};
  const int64_t items = y.shape()[0] * divide_up(shape.a, kLeftRows) * shape.c;
  if (items == 0) return;
  with_elements(y, [&]<class Out>(Out* to) {
    add_kronecker_kernel<<<blocks_for(items), kBlockThreads, 0, ctx.stream().handle()>>>(
        products.data<float>(), left.data<float>(), shape, rows, items, to);
    check_launch("add_kronecker");
  });
}

void run(OnCuda<scale_columns>, Context& ctx, ConstView sums, ConstView scale, ConstView bias, View y,
         bool accumulate) {
  const int64_t elements = y.elements();
  if (elements == 0) return;
  with_elements(y, [&]<class Out>(Out* to) {
    scale_columns_kernel<<<blocks_for(elements), kBlockThreads, 0, ctx.stream().handle()>>>(
        sums.data<float>(), scale.data<float>(), optional_data<float>(bias), elements, y.shape()[1], accumulate, to);
    check_launch("scale_columns");
  });
}

void run(OnCuda<silu_mul_interleaved>, Context& ctx, ConstView gate_up, View out) {
  if (out.elements() == 0) return;
  const int64_t vectors = out.elements() / kVector;
  with_elements(gate_up, [&]<class In>(const In* in) {
    with_elements(out, [&]<class Out>(Out* to) {
      nostos::check(is_aligned(in, to), "interleaved gates are read in vectors");
      silu_mul_interleaved_kernel<<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(in, vectors, to);
      check_launch("silu_mul_interleaved");
    });
  });
}

}  // namespace nostos::ops
