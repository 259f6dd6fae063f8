// Tests rounding to 8 bits and products of such numbers on the CPU; tests/cuda has the GPU's.
#include "ops/int8_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "ops/support.h"

namespace nostos {
namespace {

struct Rounded {
  Tensor numbers, scales;

  Rounded(Context& ctx, ConstView x, int64_t rotation)
      : numbers(Device{}, DType::i8, x.shape()), scales(Device{}, DType::f32, {x.shape()[0]}) {
    ops::quantise_rows(ctx, x, rotation, numbers, scales);
  }
  float number(int64_t i) const { return numbers.data<int8_t>()[i]; }
  float scale(int64_t row) const { return scales.data<float>()[row]; }
};

/// \return entry (i, j) of the regular Hadamard matrix of 4^k rows, by its definition.
double hadamard(int64_t i, int64_t j, int64_t rows) {
  double entry = 1;
  for (; rows > 1; rows /= 4, i /= 4, j /= 4) entry *= (i % 4 + j % 4 == 3 ? -1 : 1) / 2.0;
  return entry;
}

TEST(Int8Linear, RowsAreRotatedAndRounded) {
  Context ctx({}, 2);
  constexpr int64_t kRows = 3, kIn = 512;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t rotation : {0, 16, 256}) {
      const Tensor given = random_tensor(dtype, {kRows, kIn}, 1);
      const Rounded made(ctx, given, rotation);
      for (int64_t row = 0; row < kRows; ++row) {
        std::vector<double> wanted;
        for (int64_t i = 0; i < kIn; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < kIn; ++j) {
            const double x = dtype == DType::f32 ? given.data<float>()[row * kIn + j]
                                                 : to_float(given.data<bfloat16>()[row * kIn + j]);
            if (rotation == 0 ? i == j : i / rotation == j / rotation)
              sum += x * (rotation == 0 ? 1 : hadamard(i % rotation, j % rotation, rotation));
          }
          wanted.push_back(sum);
        }
        const auto size = [](double a, double b) { return std::abs(a) < std::abs(b); };
        const double largest = std::abs(*std::ranges::max_element(wanted, size));
        EXPECT_NEAR(made.scale(row), largest / 127, largest * 1e-8);
        for (int64_t i = 0; i < kIn; ++i)
          ASSERT_NEAR(made.number(row * kIn + i), wanted[static_cast<size_t>(i)] / largest * 127, 0.5001) << i;
      }
    }
}

TEST(Int8Linear, ARowOfZerosHasTheScaleZero) {
  Context ctx({}, 1);
  Tensor x(Device{}, DType::f32, {2, 256});
  std::fill_n(x.data<float>(), 512, 0.f);
  x.data<float>()[256] = -1;
  const Rounded made(ctx, x, 256);
  EXPECT_EQ(made.scale(0), 0);
  EXPECT_EQ(made.scale(1), 0.0625f / 127);
  for (int64_t i = 0; i < 256; ++i) EXPECT_EQ(made.number(i), 0);
}

TEST(Int8Linear, SumsAreExact) {
  for (const int threads : {1, 2, 3}) {
    Context ctx({}, threads);
    for (const auto& [rows, in, out] :
         {std::array<int64_t, 3>{1, 16, 1}, {5, 256, 48}, {67, 512, 100}, {130, 3840, 64}, {3, 10240, 17}}) {
      Rounded x(ctx, random_tensor(DType::f32, {rows, in}, 1), 0), w(ctx, random_tensor(DType::f32, {out, in}, 2), 0);
      // The largest sums that there are.
      std::fill_n(x.numbers.data<int8_t>(), in, int8_t{127});
      std::fill_n(w.numbers.data<int8_t>(), in, int8_t{-127});
      Guarded y(DType::f32, {rows, out});
      ops::int8_linear(ctx, x.numbers, x.scales, {0, w.numbers.view(), w.scales.view()}, y);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < out; ++column) {
          int32_t sum = 0;
          for (int64_t i = 0; i < in; ++i)
            sum += int32_t{x.numbers.data<int8_t>()[row * in + i]} * int32_t{w.numbers.data<int8_t>()[column * in + i]};
          ASSERT_EQ(y.view().data<float>()[row * out + column],
                    static_cast<float>(sum) * x.scale(row) * w.scale(column))
              << rows << " x " << in << " x " << out << " at " << row << ", " << column;
        }
      y.expect_guards_untouched();
    }
  }
}

TEST(Int8Linear, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {4, 48}, 1);
  Tensor numbers(Device{}, DType::i8, {4, 48}), scales(Device{}, DType::f32, {4}), y(Device{}, DType::f32, {4, 5});
  EXPECT_NO_THROW(ops::quantise_rows(ctx, x, 16, numbers, scales));
  EXPECT_THROW(ops::quantise_rows(ctx, x, 64, numbers, scales), Error);
  EXPECT_THROW(ops::quantise_rows(ctx, x, 256, numbers, scales), Error);
  EXPECT_THROW(ops::quantise_rows(ctx, x, 16, numbers, y), Error);
  const Int8Weight w{16, numbers.view(), scales.view()};
  EXPECT_THROW(ops::int8_linear(ctx, numbers, scales, w, y), Error);
}

}  // namespace
}  // namespace nostos
