// Tests rounding to 8 bits and products of such numbers on the CPU; tests/cuda has the GPU's.
#include "ops/int8_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/support.h"
#include "ops/updates.h"

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

TEST(Int8Linear, WhatIsNotFiniteComesThrough) {
  Context ctx({}, 2);
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr int64_t kIn = 256, kOut = 8;
  const Rounded w(ctx, random_tensor(DType::f32, {kOut, kIn}, 2), 256);
  for (const int64_t rotation : {0, 16, 256})
    for (const float value : {kNan, -kNan, kInfinity, -kInfinity}) {
      Tensor x = random_tensor(DType::f32, {3, kIn}, 1);
      x.data<float>()[kIn + 77] = value;
      const Rounded made(ctx, x, rotation);
      Tensor y(Device{}, DType::f32, {3, kOut});
      ops::int8_linear(ctx, {made.numbers, made.scales}, {rotation, w.numbers.view(), w.scales.view()}, y);
      for (int64_t i = 0; i < 3 * kOut; ++i) EXPECT_EQ(std::isfinite(y.data<float>()[i]), i / kOut != 1) << value;
    }
}

TEST(Int8Linear, RowsTooSmallForAScaleAreZeros) {
  Context ctx({}, 1);
  Tensor x(Device{}, DType::f32, {3, 16});
  for (int64_t i = 0; i < 48; ++i) x.data<float>()[i] = i < 16 ? 0x1p-140f : i < 32 ? 0x1p-101f : 0x1p-100f;
  const Rounded made(ctx, x, 0);
  for (int64_t i = 0; i < 32; ++i) EXPECT_EQ(made.number(i), 0);
  EXPECT_EQ(made.scale(0), 0);
  EXPECT_EQ(made.scale(1), 0);
  EXPECT_EQ(made.number(32), 127);
  EXPECT_EQ(made.scale(2), 0x1p-100f / 127);
}

// Rows are taken in parts where scratch memory does not hold all of them, here of 1152.
TEST(Int8Linear, RowsOfLinearAreThoseOfAnyNumberOfRows) {
  Context ctx({}, 2);
  constexpr int64_t kIn = 16, kOut = 32768, kRows = 1600;
  static_assert(kRows * kOut * int64_t{sizeof(float)} > ops::kRoundedScratchBytes);
  const Rounded numbers(ctx, random_tensor(DType::f32, {kOut, kIn}, 2), 16);
  Linear w;
  w.in = kIn, w.out = kOut;
  w.int8 = {16, numbers.numbers.view(), numbers.scales.view()};
  const Tensor x = random_tensor(DType::f32, {kRows, kIn}, 1);
  Tensor y(Device{}, DType::f32, {kRows, kOut}), alone(Device{}, DType::f32, {1, kOut});
  ops::clear(ctx, y);
  ops::linear(ctx, x, w, y, true);
  for (const int64_t row : {0, 1151, 1152, 1599}) {
    ops::clear(ctx, alone);
    ops::linear(ctx, x.view().rows(row, 1), w, alone, true);
    EXPECT_TRUE(same_bits(y.view().rows(row, 1), alone)) << row;
  }
}

TEST(Int8Linear, SumsAreExact) {
  for (const int threads : {1, 2, 3}) {
    Context ctx({}, threads);
    for (const auto& [rows, in, out] :
         {std::array<int64_t, 3>{1, 16, 8}, {5, 256, 48}, {67, 512, 104}, {130, 3840, 64}, {3, 10240, 24}}) {
      Rounded x(ctx, random_tensor(DType::f32, {rows, in}, 1), 0), w(ctx, random_tensor(DType::f32, {out, in}, 2), 0);
      // The largest sums that there are.
      std::fill_n(x.numbers.data<int8_t>(), in, int8_t{127});
      std::fill_n(w.numbers.data<int8_t>(), in, int8_t{-127});
      Guarded y(DType::f32, {rows, out});
      ops::int8_linear(ctx, {x.numbers, x.scales}, {0, w.numbers.view(), w.scales.view()}, y);
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

TEST(Int8Linear, UpdatesAreAddedToTheProduct) {
  Context ctx({}, 2);
  constexpr int64_t kRows = 9, kIn = 256, kOut = 48;
  const Rounded numbers(ctx, random_tensor(DType::f32, {kOut, kIn}, 2), 256);
  for (const DType dtype : product_dtypes())
    for (const UpdateKinds& kinds : kUpdateKinds)
      for (const bool accumulate : {false, true}) {
        const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), before = random_tensor(DType::f32, {kRows, kOut}, 4);
        const RandomUpdate update(dtype, kOut, kIn, kinds);
        Linear w;
        w.in = kIn, w.out = kOut, w.input = dtype;
        w.int8 = {256, numbers.numbers.view(), numbers.scales.view()};
        Tensor plain(Device{}, DType::f32, {kRows, kOut});
        ops::linear(ctx, x, w, plain);
        w.update = update.make(ctx);
        Guarded y(DType::f32, before.shape());
        std::memcpy(y.view().bytes(), before.view().bytes(), before.size_in_bytes());
        ops::linear(ctx, x, w, y, accumulate);
        const RandomUpdate::Sums sums = update.sums(values(x), Values(static_cast<size_t>(kOut * kIn)), kRows);
        Values expected = sums.value, bound;
        for (size_t i = 0; i < expected.size(); ++i) {
          const auto at = static_cast<int64_t>(i);
          const double base = value_at(plain, at) * update.scale(at % kOut),
                       old = accumulate ? value_at(before, at) : 0;
          expected[i] += base + old;
          bound.push_back((sums.size[i] + std::abs(base) + std::abs(old)) * sum_error(update.additions()) +
                          sums.rounded[i] * unit(dtype));
        }
        expect_within(y, expected, bound,
                      fmt::format("{}{}{}", name(dtype), to_string(kinds), accumulate ? ", accumulating" : ""));
        y.expect_guards_untouched();
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
  EXPECT_FALSE(ops::takes_int8({4, 48}));
  EXPECT_FALSE(ops::takes_int8({8, 40}));
  EXPECT_TRUE(ops::takes_int8({8, 48}));
  Tensor eight(Device{}, DType::i8, {8, 48}), eight_scales(Device{}, DType::f32, {8}),
      good(Device{}, DType::f32, {4, 8});
  const Int8Weight w{16, eight.view(), eight_scales.view()};
  EXPECT_NO_THROW(ops::int8_linear(ctx, {numbers, scales}, w, good));
  EXPECT_THROW(ops::int8_linear(ctx, {numbers, scales}, w, y), Error);
  EXPECT_THROW(ops::int8_linear(ctx, {numbers, eight_scales}, w, good), Error);
  EXPECT_THROW(ops::int8_linear(ctx, {numbers, scales}, {16, numbers.view(), scales.view()}, y), Error);
}

}  // namespace
}  // namespace nostos
