// Implements the rounding of rows to 8 bits, and their products.
#include "ops/int8_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/cpu/matmul.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "tensor/bfloat16.h"

namespace nostos::ops {

using namespace cpu;
namespace {

/// \return 2^-k of a rotation of 4^k numbers, a power of 2: no bit depends on when it is multiplied with.
float factor_of(int64_t rotation) {
  float factor = 1;
  for (; rotation > 1; rotation /= 4) factor /= 2;
  return factor;
}

void multiply_plainly(Context& ctx, ConstView x, ConstView w, int32_t* sums) {
  const int64_t in = x.shape()[1], out = w.shape()[0];
  parallel_ranges(ctx, x.shape()[0] * out, row_grain(in), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sums[i] = row_kernels().dot_i8(x.data<int8_t>() + i / out * in, w.data<int8_t>() + i % out * in, in);
  });
}

}  // namespace

void run(OnCpu<quantise_rows>, Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const int64_t rows = x.shape()[0], in = x.shape()[1];
  const float factor = factor_of(rotation);
  parallel_ranges(ctx, rows, row_grain(in), [&](int64_t begin, int64_t end) {
    std::vector<float> rotated(static_cast<size_t>(in));
    for (int64_t row = begin; row < end; ++row) {
      if (x.dtype() == DType::f32)
        std::memcpy(rotated.data(), x.data<float>() + row * in, rotated.size() * sizeof(float));
      else
        row_kernels().bf16_to_f32(x.data<bfloat16>() + row * in, in, rotated.data());
      const float largest = row_kernels().rotate_blocks(rotated.data(), in, rotation);
      scales.data<float>()[row] = largest < kSmallestInt8Row ? 0.f : largest * factor / 127.f;
      int8_t* const made = numbers.data<int8_t>() + row * in;
      if (largest >= kSmallestInt8Row && std::isfinite(largest))
        row_kernels().to_i8(rotated.data(), 127.f / largest, in, made);
      else
        std::fill_n(made, in, int8_t{0});
    }
  });
}

void run(OnCpu<int8_linear>, Context& ctx, const RoundedRows& x, const Int8Weight& w, View y) {
  const auto& [numbers, scales] = x;
  const int64_t rows = numbers.shape()[0], out = w.numbers.shape()[0];
  // The sums stand where the results will.
  auto* const sums = reinterpret_cast<int32_t*>(y.data<float>());
  if (rows == 0) return;
  if (!multiply_int8(ctx, numbers, w.numbers, sums)) multiply_plainly(ctx, numbers, w.numbers, sums);
  const float* const of_row = scales.data<float>();
  const float* const of_column = w.scales.data<float>();
  parallel_ranges(ctx, rows, row_grain(out), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      row_kernels().scale_sums(sums + row * out, of_row[row], of_column, out, y.data<float>() + row * out);
  });
}

}  // namespace nostos::ops
