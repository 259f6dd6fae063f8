// Tests element-wise ops: exactly where float32 arithmetic leaves one answer, else against the reference.
#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ops/support.h"

namespace nostos {
namespace {

using reference::at;

const std::vector<DType> kOutputs = {DType::f32, DType::bf16};

// exp, a sum, a division (and a product), then the output's rounding.
double silu_error(DType out) { return 4 * kUnitF32 + kExpError + unit(out); }

// Measured: 0.35 of the bound for f32, 0.99 for bf16 (its output rounding).
TEST(Elementwise, SiluMulEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t ffn : {1, 15, 16, 31, 32, 33, 65, 1024}) {
      for (const int64_t rows : {0, 1, 31, 33}) {
        const Tensor gate_up = random_tensor(DType::f32, {rows, 2 * ffn}, 1, -20, 20);
        Guarded out(dtype, {rows, ffn});
        ops::silu_mul(ctx, gate_up, out);
        const Values in = values(gate_up);
        Values expected(at(rows * ffn)), bound(expected.size());
        for (int64_t i = 0; i < rows * ffn; ++i) {
          const size_t gate = at(i / ffn * 2 * ffn + i % ffn);
          expected[at(i)] = reference::silu(in[gate]) * in[gate + at(ffn)];
          bound[at(i)] = std::abs(expected[at(i)]) * silu_error(dtype);
        }
        worst(dtype, expect_within(out, expected, bound, fmt::format("silu_mul {} {}x{}", name(dtype), rows, ffn)));
        out.expect_guards_untouched();
      }
    }
  }
}

// Measured: 0.31 of the bound for f32, 1.0 for bf16 (its output rounding).
TEST(Elementwise, SiluEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : {0, 1, 31, 33, 1000, 40000}) {
      const Tensor x = random_tensor(DType::f32, {n}, 1, -40, 40);
      Guarded out(dtype, {n});
      ops::silu(ctx, x, out);
      Values expected = values(x), bound(expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] = reference::silu(expected[i]);
        bound[i] = std::abs(expected[i]) * silu_error(dtype);
      }
      worst(dtype, expect_within(out, expected, bound, fmt::format("silu {} {}", name(dtype), n)));
      out.expect_guards_untouched();
    }
  }
}

TEST(Elementwise, SiluOfExtremes) {
  Context ctx({}, 1);
  Tensor x(Device{}, DType::f32, {6}), out(Device{}, DType::f32, {6});
  const float in[] = {0, -200, 200, -3e38f, 3e38f, std::numeric_limits<float>::quiet_NaN()};
  std::memcpy(x.data<float>(), in, sizeof in);
  ops::silu(ctx, x, out);
  const float* y = out.data<float>();
  EXPECT_EQ(y[0], 0);
  EXPECT_NEAR(y[1], 0, 1e-30);
  EXPECT_EQ(y[2], 200);
  EXPECT_LE(std::abs(y[3]), 3.1f);  // exp is clamped at e^88.4: not 0, but tiny beside its input
  EXPECT_EQ(y[4], 3e38f);
  EXPECT_TRUE(std::isnan(y[5]));
}

TEST(Elementwise, ConvertF32ToBf16RoundsToNearestEven) {
  Context ctx({}, 2);
  std::vector<uint32_t> patterns;
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      patterns.push_back(high << 16 | low);
  }
  const int64_t n = static_cast<int64_t>(patterns.size());
  Tensor x(Device{}, DType::f32, {n});
  std::memcpy(x.view().bytes(), patterns.data(), x.size_in_bytes());
  Guarded out(DType::bf16, {n});
  ops::convert(ctx, x, out);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = patterns[at(i)], high = bits >> 16, low = bits & 0xffffu;
    const uint16_t actual = out.view().data<bfloat16>()[i].bits;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
      ASSERT_TRUE((actual & 0x7fffu) > 0x7f80u && (actual >> 15) == (high >> 15)) << std::hex << bits;
    } else {
      const bool up = low > 0x8000u || (low == 0x8000u && (high & 1u));
      ASSERT_EQ(actual, static_cast<uint16_t>(high + (up ? 1 : 0))) << std::hex << bits;
    }
  }
  out.expect_guards_untouched();
}

TEST(Elementwise, ConvertBf16ToF32IsExact) {
  Context ctx({}, 2);
  Tensor x(Device{}, DType::bf16, {0x10000});
  for (uint32_t i = 0; i < 0x10000; ++i) x.data<bfloat16>()[i].bits = static_cast<uint16_t>(i);
  Guarded out(DType::f32, {0x10000});
  ops::convert(ctx, x, out);
  for (uint32_t i = 0; i < 0x10000; ++i) ASSERT_EQ(std::bit_cast<uint32_t>(out.view().data<float>()[i]), i << 16);
}

TEST(Elementwise, ConvertF16IsExactInF32AndRoundedInBf16) {
  Context ctx({}, 2);
  Tensor x(Device{}, DType::f16, {0x10000});
  for (uint32_t i = 0; i < 0x10000; ++i) reinterpret_cast<uint16_t*>(x.view().bytes())[i] = static_cast<uint16_t>(i);
  Guarded wide(DType::f32, {0x10000}), narrow(DType::bf16, {0x10000});
  ops::convert(ctx, x, wide);
  ops::convert(ctx, x, narrow);
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint32_t exponent = i >> 10 & 31, mantissa = i & 1023;
    const float actual = wide.view().data<float>()[i];
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(actual)) << i;
      ASSERT_TRUE(std::isnan(to_float(narrow.view().data<bfloat16>()[i]))) << i;
      continue;
    }
    // value = mantissa 2^-24 (subnormal) or (1024 + mantissa) 2^(exponent - 25)
    double expected =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    if (exponent == 31) expected = std::numeric_limits<double>::infinity();
    if (i & 0x8000) expected = -expected;
    ASSERT_EQ(static_cast<double>(actual), expected) << i;
    ASSERT_EQ(std::signbit(actual), (i & 0x8000) != 0) << i;
    ASSERT_EQ(narrow.view().data<bfloat16>()[i].bits, to_bfloat16(actual).bits) << i;
  }
}

TEST(Elementwise, ConvertToTheSameTypeCopies) {
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : {0, 1, 33, 70000}) {
      const Tensor x = random_tensor(dtype, {n}, 1);
      Guarded out(dtype, {n});
      ops::convert(ctx, x, out);
      EXPECT_TRUE(same_bits(x, out)) << n;
      out.expect_guards_untouched();
    }
  }
}

TEST(Elementwise, FillRowsCopiesOneRow) {
  Context ctx({}, 2);
  for (const int64_t rows : {0, 1, 31, 33}) {
    for (const int64_t channels : {1, 33, 384}) {
      const Tensor row = random_tensor(DType::f32, {channels}, 1);
      Guarded out(DType::f32, {rows, channels});
      ops::fill_rows(ctx, row, out);
      for (int64_t r = 0; r < rows; ++r) EXPECT_TRUE(same_bits(out.view().rows(r, 1).reshape({channels}), row));
      out.expect_guards_untouched();
    }
  }
}

TEST(Elementwise, ClearFillsWithZeros) {
  Context ctx({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    for (const int64_t rows : {0, 1, 33}) {
      Guarded out(dtype, {rows, 7});
      ops::clear(ctx, out);
      EXPECT_EQ(values(out), Values(at(rows * 7), 0));
      out.expect_guards_untouched();
    }
  }
}

TEST(Elementwise, EmbedPicksRows) {
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    const Tensor table = random_tensor(dtype, {100, 33}, 1);
    Tensor ids(Device{}, DType::i32, {5});
    const int32_t picks[] = {0, 99, 7, 7, 42};
    std::memcpy(ids.data<int32_t>(), picks, sizeof picks);
    Guarded out(DType::f32, {5, 33});
    ops::embed(ctx, table, ids, out);
    for (int64_t r = 0; r < 5; ++r) {
      for (int64_t c = 0; c < 33; ++c) EXPECT_EQ(value_at(out, r * 33 + c), value_at(table, picks[r] * 33 + c));
    }
    out.expect_guards_untouched();
    const Tensor none(Device{}, DType::i32, {0});
    Guarded empty(DType::f32, {0, 33});
    EXPECT_NO_THROW(ops::embed(ctx, table, none, empty));
  }
}

// The reference adds and multiplies float32 tensors one operation at a time; so does this.
TEST(Elementwise, GuideIsExactWithoutNormalization) {
  Context ctx({}, 2);
  for (const int64_t tokens : {0, 1, 31, 65}) {
    const Tensor positive = random_tensor(DType::f32, {tokens, 64}, 1),
                 negative = random_tensor(DType::f32, {tokens, 64}, 2);
    Guarded out(DType::f32, {tokens, 64});
    ops::guide(ctx, positive, negative, 3.7f, out);
    for (int64_t i = 0; i < tokens * 64; ++i) {
      const float p = positive.data<float>()[i], difference = p - negative.data<float>()[i], scaled = 3.7f * difference;
      ASSERT_EQ(out.view().data<float>()[i], p + scaled) << i;
    }
    out.expect_guards_untouched();
  }
}

// Measured: 0.17 of the bound.
TEST(Elementwise, GuideCapsTheNorm) {
  WorstError worst;
  Context ctx({}, 2);
  const Tensor positive = random_tensor(DType::f32, {33, 64}, 1), negative = random_tensor(DType::f32, {33, 64}, 2);
  const Values p = values(positive), n = values(negative);
  for (const float ratio : {0.5f, 1.f, 2.f, 1000.f}) {
    Values expected(p.size()), bound(p.size());
    double of_positive = 0, of_guided = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      expected[i] = p[i] + 4 * (p[i] - n[i]);
      bound[i] = (std::abs(p[i]) + 4 * (std::abs(p[i]) + std::abs(n[i]))) * 6 * kUnitF32;
      of_positive += p[i] * p[i];
      of_guided += expected[i] * expected[i];
    }
    const double factor = std::min(1.0, ratio * std::sqrt(of_positive / of_guided));
    EXPECT_EQ(factor < 1, ratio < 100);
    for (double& value : expected) value *= factor;
    Guarded out(DType::f32, {33, 64});
    Tensor squares(Device{}, DType::f64, {33, 2});
    ops::guide(ctx, positive, negative, 4, out, squares);
    ops::cap_norm(ctx, squares, ratio, out);
    worst(DType::f32, expect_within(out, expected, bound, fmt::format("guide capped at {}", ratio)));
    out.expect_guards_untouched();
    // In place.
    Guarded in_place(DType::f32, {33, 64});
    copy_bytes(positive, in_place);
    ops::guide(ctx, in_place, negative, 4, in_place, squares);
    ops::cap_norm(ctx, squares, ratio, in_place.view().rows(0, 20));
    ops::cap_norm(ctx, squares, ratio, in_place.view().rows(20, 13));  // a part of the tokens at a time
    EXPECT_TRUE(same_bits(out, in_place));
  }
}

TEST(Elementwise, EulerStepIsExact) {
  Context ctx({}, 2);
  Tensor delta(Device{}, DType::f32, {1});
  *delta.data<float>() = -0.123f;
  for (const int64_t n : {0, 1, 33, 40000}) {
    const Tensor output = random_tensor(DType::f32, {n}, 1), before = random_tensor(DType::f32, {n}, 2);
    Guarded x(DType::f32, {n});
    copy_bytes(before, x);
    ops::euler_step(ctx, output, delta, x);
    for (int64_t i = 0; i < n; ++i) {
      const float change = -0.123f * -output.data<float>()[i];
      ASSERT_EQ(x.view().data<float>()[i], before.data<float>()[i] + change) << i;
    }
    x.expect_guards_untouched();
  }
}

TEST(Elementwise, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {4, 6}, 1), other = random_tensor(DType::f32, {4, 5}, 1);
  const Tensor bytes(Device{}, DType::u8, {4, 6});
  Guarded out(DType::f32, {4, 6}), half(DType::f32, {4, 3}), quarter(DType::f32, {4, 2});
  EXPECT_NO_THROW(ops::silu_mul(ctx, x, half));
  EXPECT_THROW(ops::silu_mul(ctx, x, quarter), Error);
  EXPECT_THROW(ops::silu(ctx, x, half), Error);
  EXPECT_THROW(ops::convert(ctx, x, half), Error);
  EXPECT_THROW(ops::convert(ctx, bytes, out), Error);
  EXPECT_THROW(ops::fill_rows(ctx, other.view().rows(0, 1), out), Error);
  EXPECT_THROW(ops::guide(ctx, x, other, 1, out), Error);
  const Tensor delta(Device{}, DType::f32, {1}), deltas(Device{}, DType::f32, {2});
  EXPECT_THROW(ops::euler_step(ctx, other, delta, out), Error);
  EXPECT_THROW(ops::euler_step(ctx, x, deltas, out), Error);
}

}  // namespace
}  // namespace nostos
