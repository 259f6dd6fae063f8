// Tests matrix products with packed weights against the reference.
#include "ops/linear.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/support.h"

namespace nostos {
namespace {

struct Case {
  int64_t rows, in, out;
  bool bias, accumulate;
};

// Below, at and above vector, tile and block sizes; no rows; the embedded model's and larger widths.
const std::vector<Case> kCases = {
    {1, 1, 1, false, false},      {1, 31, 33, true, false},    {31, 32, 31, false, true},   {32, 33, 65, true, true},
    {33, 65, 32, false, false},   {65, 64, 1, true, false},    {64, 256, 257, true, true},  {0, 32, 32, true, false},
    {7, 384, 1152, false, false}, {130, 384, 96, false, true}, {2, 1000, 300, true, false}, {3, 3840, 64, true, false},
};

// Products of bf16 are exact in f32.
// Measured: 0.18 of the bound for f32, 0.04 for bf16.
TEST(Linear, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const Case& c : kCases) {
      const Tensor x = random_tensor(dtype, {c.rows, c.in}, 1), weight = random_tensor(dtype, {c.out, c.in}, 2);
      const Tensor bias = random_tensor(DType::f32, {c.out}, 3), before = random_tensor(DType::f32, {c.rows, c.out}, 4);
      Linear packed = ops::pack_linear(ctx, weight);
      EXPECT_EQ(packed.in, c.in);
      EXPECT_EQ(packed.out, c.out);
      EXPECT_GE(packed.size_in_bytes(), weight.size_in_bytes());
      if (c.bias) packed.bias = bias;
      Guarded y(DType::f32, {c.rows, c.out});
      if (c.accumulate) copy_bytes(before, y);
      ops::linear(ctx, x, packed, y, c.accumulate);

      const Values b = c.bias ? values(bias) : Values{};
      Values expected = reference::linear(values(x), values(weight), b, c.rows, c.in, c.out);
      Values bound = reference::linear(reference::absolute(values(x)), reference::absolute(values(weight)),
                                       reference::absolute(b), c.rows, c.in, c.out);
      const Values old = values(before);
      for (size_t i = 0; i < expected.size(); ++i) {
        if (c.accumulate) expected[i] += old[i], bound[i] += std::abs(old[i]);
        bound[i] *= sum_error(c.in);
      }
      worst(dtype, expect_within(y, expected, bound, fmt::format("{} {}x{}x{}", name(dtype), c.rows, c.in, c.out)));
      y.expect_guards_untouched();
    }
  }
}

TEST(Linear, TakesSlicedRowsAndOneWeightInManyContexts) {
  Context pack_ctx({}, 1), run_ctx({}, 2);
  const Tensor x = random_tensor(DType::f32, {40, 48}, 1), weight = random_tensor(DType::f32, {24, 48}, 2);
  const Linear packed = ops::pack_linear(pack_ctx, weight);
  Guarded all(DType::f32, {40, 24}), part(DType::f32, {5, 24});
  ops::linear(pack_ctx, x, packed, all);
  ops::linear(run_ctx, x.view().rows(17, 5), packed, part);
  EXPECT_TRUE(same_bits(all.view().rows(17, 5), part));
  part.expect_guards_untouched();
}

// What a library has made for a number of rows is forgotten after others, and made anew.
TEST(Linear, MoreNumbersOfRowsThanAreKeptGiveTheSameRows) {
  constexpr int64_t kMost = 600;
  Context ctx({}, 2);
  const Tensor x = random_tensor(DType::f32, {kMost, 40}, 1), weight = random_tensor(DType::f32, {24, 40}, 2);
  const Linear packed = ops::pack_linear(ctx, weight);
  Guarded all(DType::f32, {kMost, 24});
  ops::linear(ctx, x, packed, all);
  for (int64_t rows = 1; rows <= kMost; ++rows) {
    Guarded part(DType::f32, {rows, 24});
    ops::linear(ctx, x.view().rows(0, rows), packed, part);
    ASSERT_TRUE(same_bits(all.view().rows(0, rows), part)) << rows;
  }
}

TEST(Linear, SourceWeightIsNotNeededAfterPacking) {
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {3, 20}, 1);
  Tensor weight = random_tensor(DType::f32, {10, 20}, 2);
  const Linear packed = ops::pack_linear(ctx, weight);
  Guarded before(DType::f32, {3, 10}), after(DType::f32, {3, 10});
  ops::linear(ctx, x, packed, before);
  std::memset(weight.view().bytes(), 0xff, weight.size_in_bytes());
  ops::linear(ctx, x, packed, after);
  EXPECT_TRUE(same_bits(before, after));
}

TEST(Linear, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Tensor weight = random_tensor(DType::f32, {10, 20}, 2);
  const Linear packed = ops::pack_linear(ctx, weight);
  Guarded y(DType::f32, {3, 10}), narrow(DType::f32, {3, 9});
  EXPECT_THROW(ops::linear(ctx, random_tensor(DType::f32, {3, 21}, 1), packed, y), Error);
  EXPECT_THROW(ops::linear(ctx, random_tensor(DType::f32, {4, 20}, 1), packed, y), Error);
  EXPECT_THROW(ops::linear(ctx, random_tensor(DType::bf16, {3, 20}, 1), packed, y), Error);
  EXPECT_THROW(ops::linear(ctx, random_tensor(DType::f32, {3, 20}, 1), packed, narrow), Error);
  EXPECT_THROW(ops::pack_linear(ctx, random_tensor(DType::f32, {10}, 1)), Error);
}

TEST(Linear, Bf16WithoutTheInstructionsIsADeviceError) {
  Context ctx({}, 1);
  if (ops::has_bf16_products(ctx)) GTEST_SKIP() << "this CPU multiplies bf16";
  try {
    ops::pack_linear(ctx, random_tensor(DType::bf16, {4, 4}, 1));
    FAIL() << "bf16 weights were packed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
    EXPECT_NE(std::string(error.what()).find("--precision f32"), std::string::npos) << error.what();
  }
}

// Measured: 0.17 of the bound for f32, 0.02 for bf16.
TEST(LinearSum, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  struct Case {
    int64_t rows, a_in, b_in, out;
  };
  for (const DType dtype : product_dtypes()) {
    for (const Case& c :
         {Case{1, 1, 1, 1}, {0, 32, 64, 32}, {33, 31, 65, 32}, {65, 64, 8, 104}, {130, 384, 1000, 96}}) {
      const Tensor x_a = random_tensor(dtype, {c.rows, c.a_in}, 1), x_b = random_tensor(dtype, {c.rows, c.b_in}, 2);
      const Tensor a = random_tensor(dtype, {c.out, c.a_in}, 3), b = random_tensor(dtype, {c.out, c.b_in}, 4);
      Guarded y(DType::f32, {c.rows, c.out});
      ops::linear_sum(ctx, x_a, ops::pack_linear(ctx, a), x_b, ops::pack_linear(ctx, b), y);

      const auto sum = [&](const auto& of) {
        Values of_a = reference::linear(of(x_a), of(a), {}, c.rows, c.a_in, c.out);
        const Values of_b = reference::linear(of(x_b), of(b), {}, c.rows, c.b_in, c.out);
        std::ranges::transform(of_a, of_b, of_a.begin(), std::plus<>());
        return of_a;
      };
      const Values expected = sum([](const Tensor& tensor) { return values(tensor); });
      Values bound = sum([](const Tensor& tensor) { return reference::absolute(values(tensor)); });
      for (double& each : bound) each *= sum_error(c.a_in + c.b_in);
      worst(dtype, expect_within(y, expected, bound,
                                 fmt::format("{} {}x{}+{}x{}", name(dtype), c.rows, c.a_in, c.b_in, c.out)));
      y.expect_guards_untouched();
    }
  }
}

TEST(LinearSum, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const auto packed = [&](int64_t out, int64_t in) {
    return ops::pack_linear(ctx, random_tensor(DType::f32, {out, in}, 2));
  };
  const Linear a = packed(10, 20), b = packed(10, 12), other = packed(9, 12);
  const Tensor x_a = random_tensor(DType::f32, {3, 20}, 1), x_b = random_tensor(DType::f32, {3, 12}, 1);
  Guarded y(DType::f32, {3, 10}), rounded(DType::bf16, {3, 10});
  EXPECT_THROW(ops::linear_sum(ctx, x_b, a, x_b, b, y), Error);
  EXPECT_THROW(ops::linear_sum(ctx, x_a, a, x_b, other, y), Error);
  EXPECT_THROW(ops::linear_sum(ctx, x_a, a, x_b, b, rounded), Error);
  Linear biased = a;
  const Tensor bias = random_tensor(DType::f32, {10}, 3);
  biased.bias = bias;
  EXPECT_THROW(ops::linear_sum(ctx, x_a, biased, x_b, b, y), Error);
}

// Below, at and above tile sizes; widths that one kernel serves on a GPU (multiples of 8) and others.
// Measured: 0.21 of the bound for f32, 0.98 for bf16 (its output rounding).
TEST(GatedLinear, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  struct Case {
    int64_t rows, in, ffn;
  };
  for (const DType dtype : product_dtypes()) {
    for (const Case& c : {Case{1, 1, 1},
                          {33, 31, 33},
                          {0, 64, 96},
                          {1, 8, 8},
                          {31, 72, 104},
                          {64, 64, 96},
                          {65, 200, 192},
                          {193, 328, 200},
                          {400, 96, 24},
                          // On a Hopper GPU of 132 multiprocessors: tiles of 192 rows, and those beside shorter ones.
                          {130, 136, 6432},
                          {385, 16, 6432}}) {
      const Tensor x = random_tensor(dtype, {c.rows, c.in}, 1), weight = random_tensor(dtype, {2 * c.ffn, c.in}, 2);
      const GatedLinear packed = pack_gated(ctx, weight);
      EXPECT_GE(packed.gate_up.size_in_bytes(), weight.size_in_bytes());
      Tensor scratch(Device{}, DType::f32, {c.rows, 2 * c.ffn});
      Guarded out(dtype, {c.rows, c.ffn});
      ops::gated_linear(ctx, x, packed, scratch, out);

      const auto products = [&](const Values& of_x, const Values& of_weight) {
        return reference::linear(of_x, of_weight, {}, c.rows, c.in, 2 * c.ffn);
      };
      const Values exact = products(values(x), values(weight));
      const Values size = products(reference::absolute(values(x)), reference::absolute(values(weight)));
      Values expected(reference::at(c.rows * c.ffn)), bound(expected.size());
      for (int64_t i = 0; i < c.rows * c.ffn; ++i) {
        const size_t gate = reference::at(i / c.ffn * 2 * c.ffn + i % c.ffn), up = gate + reference::at(c.ffn);
        const double silu = reference::silu(exact[gate]), steepest = 1.1;
        const double gate_error = steepest * sum_error(c.in) * size[gate], up_error = sum_error(c.in) * size[up];
        expected[reference::at(i)] = silu * exact[up];
        bound[reference::at(i)] = gate_error * (std::abs(exact[up]) + up_error) + std::abs(silu) * up_error +
                                  std::abs(silu * exact[up]) * (4 * kUnitF32 + kExpError + unit(dtype));
      }
      worst(dtype, expect_within(out, expected, bound, fmt::format("{} {}x{}x{}", name(dtype), c.rows, c.in, c.ffn)));
      out.expect_guards_untouched();
    }
  }
}

TEST(GatedLinear, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const GatedLinear packed = pack_gated(ctx, random_tensor(DType::f32, {20, 12}, 2));
  Guarded scratch(DType::f32, {3, 20}), out(DType::f32, {3, 10}), narrow(DType::f32, {3, 9});
  EXPECT_THROW(ops::gated_linear(ctx, random_tensor(DType::f32, {3, 11}, 1), packed, scratch, out), Error);
  EXPECT_THROW(ops::gated_linear(ctx, random_tensor(DType::f32, {3, 12}, 1), packed, scratch, narrow), Error);
  EXPECT_THROW(ops::gated_linear(ctx, random_tensor(DType::f32, {3, 12}, 1), packed, narrow, out), Error);
}

TEST(Linear, MeasuresARate) {
  Context ctx({}, 1);
  for (const DType dtype : product_dtypes()) EXPECT_GT(ops::measure_linear_gflops(ctx, dtype, 64, 64, 64), 0);
}

}  // namespace
}  // namespace nostos
