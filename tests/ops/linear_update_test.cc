// Tests what adapters add beside a weight: every kind of term against the reference, in every product.
#include "ops/linear_update.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/updates.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

struct Case {
  int64_t rows, in, out;
  bool bias, accumulate;
};

// Below, at and above vector and block sizes; widths with and without factors.
const std::vector<Case> kCases = {{1, 1, 1, false, false},   {0, 32, 48, true, false},    {33, 31, 65, true, true},
                                  {65, 64, 96, false, true}, {7, 96, 1200, false, false}, {130, 384, 66, true, false}};

// Measured: 0.07 of the bound for f32, 0.4 for bf16, whose x down^T is rounded.
TEST(LinearUpdate, EveryKindEqualsTheReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const Case& c : kCases) {
      for (const UpdateKinds& kinds : kUpdateKinds) {
        const Tensor x = random_tensor(dtype, {c.rows, c.in}, 1), weight = random_tensor(dtype, {c.out, c.in}, 2);
        const Tensor bias = random_tensor(DType::f32, {c.out}, 3),
                     before = random_tensor(DType::f32, {c.rows, c.out}, 4);
        const RandomUpdate update(dtype, c.out, c.in, kinds);
        Linear packed = ops::pack_linear(ctx, weight);
        packed.update = update.make(ctx);
        if (c.bias) packed.bias = bias;
        Guarded y(DType::f32, {c.rows, c.out});
        copy_bytes(before, y);
        ops::linear(ctx, x, packed, y, c.accumulate);

        const RandomUpdate::Sums sums = update.sums(values(x), values(weight), c.rows);
        Values expected = sums.value, bound = sums.size;
        for (size_t i = 0; i < expected.size(); ++i) {
          const int64_t at = static_cast<int64_t>(i);
          const double plus = (c.bias ? value_at(bias, at % c.out) : 0) + (c.accumulate ? value_at(before, at) : 0);
          const double size =
              (c.bias ? std::abs(value_at(bias, at % c.out)) : 0) + (c.accumulate ? std::abs(value_at(before, at)) : 0);
          expected[i] += plus;
          bound[i] = (bound[i] + size) * sum_error(update.additions()) + sums.rounded[i] * unit(dtype);
        }
        worst(dtype, expect_within(y, expected, bound,
                                   fmt::format("{} {}x{}x{}{}", name(dtype), c.rows, c.in, c.out, to_string(kinds))));
        y.expect_guards_untouched();
      }
    }
  }
}

// An update that adds nothing, or zeros, leaves the bits of a weight without one.
TEST(LinearUpdate, NothingAddedLeavesTheBits) {
  constexpr int64_t kRows = 65, kIn = 96, kOut = 120;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1);
    const Linear plain = ops::pack_linear(ctx, random_tensor(dtype, {kOut, kIn}, 2));
    Tensor down = random_tensor(DType::f32, {4, kIn}, 3), up(Device{}, DType::f32, {kOut, 4});
    std::memset(up.view().bytes(), 0, up.size_in_bytes());
    LinearUpdate zeros;
    zeros.low_rank = ops::make_low_rank(ctx, down, up, dtype);
    EXPECT_EQ(zeros.low_rank.down.out, ops::kRankMultiple);
    EXPECT_GE(zeros.size_in_bytes(), static_cast<size_t>(ops::kRankMultiple * (kIn + kOut)) * size_bytes(dtype));
    Linear with_nothing = plain, with_zeros = plain;
    with_nothing.update = std::make_shared<const LinearUpdate>();
    with_zeros.update = std::make_shared<const LinearUpdate>(std::move(zeros));
    Guarded expected(DType::f32, {kRows, kOut}), nothing(DType::f32, {kRows, kOut}), zero(DType::f32, {kRows, kOut});
    ops::linear(ctx, x, plain, expected);
    ops::linear(ctx, x, with_nothing, nothing);
    ops::linear(ctx, x, with_zeros, zero);
    EXPECT_TRUE(same_bits(expected, nothing)) << name(dtype);
    EXPECT_TRUE(same_bits(expected, zero)) << name(dtype);
  }
}

// Adapters stacked along the rank are their sum; a rank that is a multiple of no tile.
TEST(LinearUpdate, StackedRanksEqualTheReference) {
  constexpr int64_t kRows = 33, kIn = 200, kOut = 72, kRank = 77;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(dtype, {kRows, kIn}, 1), weight = random_tensor(dtype, {kOut, kIn}, 2);
    const RandomUpdate update(dtype, kOut, kIn, {.low_rank = true}, kRank);
    Linear packed = ops::pack_linear(ctx, weight);
    packed.update = update.make(ctx);
    Guarded y(DType::f32, {kRows, kOut});
    ops::linear(ctx, x, packed, y);
    const RandomUpdate::Sums sums = update.sums(values(x), values(weight), kRows);
    Values bound = sums.size;
    for (size_t i = 0; i < bound.size(); ++i)
      bound[i] = bound[i] * sum_error(update.additions()) + sums.rounded[i] * unit(dtype);
    expect_within(y, sums.value, bound, std::string(name(dtype)));
  }
}

// More rows than the memory between the steps holds are taken some at a time.
TEST(LinearUpdate, ManyRowsGiveTheBitsOfFew) {
  Context ctx({}, 2);
  const auto compare = [&](int64_t rows, int64_t in, int64_t out, const std::shared_ptr<const LinearUpdate>& update) {
    const Tensor x = random_tensor(DType::f32, {rows, in}, 1);
    Linear packed = ops::pack_linear(ctx, random_tensor(DType::f32, {out, in}, 2));
    packed.update = update;
    Tensor all(Device{}, DType::f32, {rows, out}), part(Device{}, DType::f32, {3, out});
    ops::clear(ctx, all);
    ops::linear(ctx, x, packed, all, true);
    for (const int64_t first : {int64_t{0}, int64_t{126}, rows / 2, rows - 3}) {
      ops::clear(ctx, part);
      ops::linear(ctx, x.view().rows(first, 3), packed, part, true);
      EXPECT_TRUE(same_bits(all.view().rows(first, 3), part)) << rows << " rows from " << first;
    }
  };
  LinearUpdate product;  // 256 KiB of products a row
  product.kronecker.push_back(ops::make_kronecker(ctx, random_tensor(DType::f32, {1, 64}, 3),
                                                  random_tensor(DType::f32, {1024, 1}, 4), {0, 1024, 0, 1024, 1024},
                                                  DType::f32));
  compare(300, 64, 1024, std::make_shared<const LinearUpdate>(std::move(product)));
  LinearUpdate scaled;
  scaled.column_scale = Tensor(ctx.device(), DType::f32, {2048});
  upload(ctx, random_tensor(DType::f32, {2048}, 5), scaled.column_scale);
  compare(ops::kUpdateScratchBytes / 2048 / 4 + 5, 8, 2048, std::make_shared<const LinearUpdate>(std::move(scaled)));
}

// Measured: 0.04 of the bound for f32, 0.98 for bf16 (its output rounding).
TEST(LinearUpdate, GatedProductsEqualTheReference) {
  WorstError worst;
  Context ctx({}, 2);
  struct Size {
    int64_t rows, in, ffn;
  };
  for (const DType dtype : product_dtypes()) {
    for (const Size& c : {Size{1, 8, 8}, {0, 64, 96}, {33, 31, 33}, {65, 200, 192}, {193, 72, 104}}) {
      for (const UpdateKinds& kinds : kUpdateKinds) {
        const Tensor x = random_tensor(dtype, {c.rows, c.in}, 1), weight = random_tensor(dtype, {2 * c.ffn, c.in}, 2);
        const RandomUpdate update(dtype, 2 * c.ffn, c.in, kinds);
        GatedLinear packed = pack_gated(ctx, weight);
        std::vector<NamedRows> named{{"gate", 0, c.ffn, c.ffn, c.ffn}, {"up", c.ffn, c.ffn, c.ffn, c.ffn}};
        if (packed.is_fused) named = ops::interleaved_rows(ctx.device(), "gate", "up", c.ffn);
        packed.gate_up.update = update.make(ctx, named);
        Tensor scratch(Device{}, DType::f32, {c.rows, 2 * c.ffn});
        Guarded out(dtype, {c.rows, c.ffn});
        ops::gated_linear(ctx, x, packed, packed.is_fused ? View{} : scratch.view(), out);

        const RandomUpdate::Sums sums = update.sums(values(x), values(weight), c.rows, true);
        const auto error = [&](size_t at) {
          return sums.size[at] * sum_error(update.additions()) + sums.rounded[at] * unit(dtype);
        };
        Values expected(reference::at(c.rows * c.ffn)), bound(expected.size());
        for (int64_t i = 0; i < c.rows * c.ffn; ++i) {
          const size_t gate = reference::at(i / c.ffn * 2 * c.ffn + i % c.ffn), up = gate + reference::at(c.ffn);
          const double silu = reference::silu(sums.value[gate]), steepest = 1.1, exact_up = sums.value[up];
          expected[reference::at(i)] = silu * exact_up;
          bound[reference::at(i)] = steepest * error(gate) * (std::abs(exact_up) + error(up)) +
                                    std::abs(silu) * error(up) +
                                    std::abs(silu * exact_up) * (4 * kUnitF32 + kExpError + unit(dtype));
        }
        worst(dtype, expect_within(out, expected, bound,
                                   fmt::format("{} {}x{}x{}{}", name(dtype), c.rows, c.in, c.ffn, to_string(kinds))));
        out.expect_guards_untouched();
      }
    }
  }
}

// Measured: 0.03 of the bound for f32, 0.14 for bf16.
TEST(LinearUpdate, SumsOfProductsEqualTheReference) {
  WorstError worst;
  Context ctx({}, 2);
  constexpr int64_t kRows = 65, kInA = 64, kInB = 136, kOut = 96;
  for (const DType dtype : product_dtypes()) {
    for (const UpdateKinds& kinds : kUpdateKinds) {
      for (const bool has_a : {false, true}) {
        const Tensor x_a = random_tensor(dtype, {kRows, kInA}, 1), x_b = random_tensor(dtype, {kRows, kInB}, 2);
        const Tensor of_a = random_tensor(dtype, {kOut, kInA}, 3), of_b = random_tensor(dtype, {kOut, kInB}, 4);
        const RandomUpdate update_a(dtype, kOut, kInA, has_a ? kinds : UpdateKinds{}),
            update_b(dtype, kOut, kInB, kinds);
        Linear a = ops::pack_linear(ctx, of_a), b = ops::pack_linear(ctx, of_b);
        if (has_a) a.update = update_a.make(ctx);
        b.update = update_b.make(ctx);
        Guarded y(DType::f32, {kRows, kOut});
        ops::linear_sum(ctx, x_a, a, x_b, b, y);
        const RandomUpdate::Sums sums_a = update_a.sums(values(x_a), values(of_a), kRows),
                                 sums_b = update_b.sums(values(x_b), values(of_b), kRows);
        Values expected, bound;
        for (size_t i = 0; i < sums_a.value.size(); ++i) {
          expected.push_back(sums_a.value[i] + sums_b.value[i]);
          bound.push_back((sums_a.size[i] + sums_b.size[i]) * sum_error(update_a.additions() + update_b.additions()) +
                          (sums_a.rounded[i] + sums_b.rounded[i]) * unit(dtype));
        }
        worst(dtype, expect_within(y, expected, bound, fmt::format("{}{}", name(dtype), to_string(kinds))));
        y.expect_guards_untouched();
      }
    }
  }
}

TEST(LinearUpdate, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const auto f32 = [](const Shape& shape) { return random_tensor(DType::f32, shape, 1); };
  const Tensor x = f32({3, 20});
  Guarded y(DType::f32, {3, 10});
  const auto expect_refused = [&](LinearUpdate update) {
    Linear packed = ops::pack_linear(ctx, f32({10, 20}));
    packed.update = std::make_shared<const LinearUpdate>(std::move(update));
    EXPECT_THROW(ops::linear(ctx, x, packed, y), Error);
  };
  LinearUpdate narrow, long_up, difference, scale, columns, rows;
  narrow.low_rank = ops::make_low_rank(ctx, f32({4, 19}), f32({10, 4}), DType::f32);
  expect_refused(std::move(narrow));
  long_up.low_rank = ops::make_low_rank(ctx, f32({4, 20}), f32({11, 4}), DType::f32);
  expect_refused(std::move(long_up));
  difference.dense = ops::make_difference(ctx, f32({10, 19}), DType::f32);
  expect_refused(std::move(difference));
  scale.column_scale = f32({9});
  expect_refused(std::move(scale));
  columns.kronecker.push_back(ops::make_kronecker(ctx, f32({2, 4}), f32({5, 4}), {0, 10, 0, 10, 10}, DType::f32));
  expect_refused(std::move(columns));
  rows.kronecker.push_back(ops::make_kronecker(ctx, f32({2, 4}), f32({5, 5}), {0, 10, 1, 10, 10}, DType::f32));
  expect_refused(std::move(rows));
  EXPECT_THROW(ops::make_low_rank(ctx, f32({4, 20}), f32({10, 5}), DType::f32), Error);
  EXPECT_THROW(ops::make_kronecker(ctx, f32({2, 4}), f32({5, 5}), {1, 10, 0, 10, 10}, DType::f32), Error);
  EXPECT_THROW(ops::silu_mul_interleaved(ctx, f32({3, 20}), y), Error);
}

}  // namespace
}  // namespace nostos
