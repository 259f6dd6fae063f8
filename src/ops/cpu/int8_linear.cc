// Implements the rounding of rows to 8 bits, and their products.
#include "ops/int8_linear.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/matmul.h"
#include "ops/cpu/parallel.h"
#include "ops/device_op.h"
#include "tensor/bfloat16.h"

namespace nostos::ops {

using namespace cpu;
namespace {

/// The product with H4 of one digit of the indices of a rotation, twice as large: each becomes the sum of its four less
/// twice the one that faces it.
void rotate_digit(float* x, int64_t rotation, int64_t step) {
  for (int64_t begin = 0; begin < rotation; begin += 4 * step)
    for (int64_t i = begin; i < begin + step; ++i) {
      float &a = x[i], &b = x[i + step], &c = x[i + 2 * step], &d = x[i + 3 * step];
      const float sum = (a + b) + (c + d), of_a = sum - 2 * d, of_b = sum - 2 * c, of_c = sum - 2 * b;
      d = sum - 2 * a, a = of_a, b = of_b, c = of_c;
    }
}

template <class In>
void quantise_row(const In* x, int64_t count, int64_t rotation, float* rotated, int8_t* numbers, float* scale) {
  std::transform(x, x + count, rotated, [](In value) { return to_float(value); });
  float factor = 1;  // of the rotation, a power of 2: no bit depends on when it is multiplied with
  for (int64_t step = 1; step < rotation; step *= 4) {
    factor /= 2;
    for (int64_t begin = 0; begin < count; begin += rotation) rotate_digit(rotated + begin, rotation, step);
  }
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(rotated[i]));
  *scale = largest * factor / 127.f;
  const float inverse = largest > 0 ? 127.f / largest : 0.f;
  for (int64_t i = 0; i < count; ++i) numbers[i] = static_cast<int8_t>(std::nearbyint(rotated[i] * inverse));
}

}  // namespace

void run(OnCpu<quantise_rows>, Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const int64_t rows = x.shape()[0], in = x.shape()[1];
  parallel_ranges(ctx, rows, row_grain(in), [&](int64_t begin, int64_t end) {
    std::vector<float> rotated(static_cast<size_t>(in));
    for (int64_t row = begin; row < end; ++row) {
      const auto quantise = [&](const auto* from) {
        quantise_row(from + row * in, in, rotation, rotated.data(), numbers.data<int8_t>() + row * in,
                     scales.data<float>() + row);
      };
      x.dtype() == DType::f32 ? quantise(x.data<float>()) : quantise(x.data<bfloat16>());
    }
  });
}

void run(OnCpu<int8_linear>, Context& ctx, ConstView numbers, ConstView scales, const Int8Weight& w, View y) {
  const int64_t rows = numbers.shape()[0], out = w.numbers.shape()[0];
  // The sums stand where the results will.
  auto* const sums = reinterpret_cast<int32_t*>(y.data<float>());
  multiply_int8(ctx, numbers, w.numbers, sums);
  const float* const of_row = scales.data<float>();
  const float* const of_column = w.scales.data<float>();
  parallel_ranges(ctx, rows, row_grain(out), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = row * out, column = 0; column < out; ++i, ++column)
        y.data<float>()[i] = static_cast<float>(sums[i]) * of_row[row] * of_column[column];
  });
}

}  // namespace nostos::ops
