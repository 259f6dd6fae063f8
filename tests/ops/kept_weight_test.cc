// Tests products with weights that stay as they are stored against products with the same weights packed.
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "base/error.h"
#include "ops/stored_cases.h"

namespace nostos {
namespace {

/// A weight in pieces of two formats, whose rows repeat those of golden cases.
struct Weight {
  std::vector<StoredPiece> pieces;
  Shape shape;
};

/// \return a weight [out, 512] of rotated numbers, in a piece a row.
Weight weight_of(int64_t out) {
  static const std::vector<StoredCase> cases = {stored_case("i8.rotated64", WeightScales::each_row, 64),
                                                stored_case("i8.rotated256", WeightScales::each_row, 256)};
  Weight made{{}, {out, cases[0].matrix.columns}};
  for (int64_t row = 0; row < out; ++row) {
    const StoredMatrix& matrix = cases[static_cast<size_t>(row % 2)].matrix;
    made.pieces.push_back(in_one_piece(matrix.row_range(row / 2 % matrix.rows, 1), row));
  }
  return made;
}

Tensor numbers_of(Context& ctx, const Weight& weight, DType dtype) {
  Tensor numbers(Device{}, dtype, weight.shape);
  ops::dequantise(ctx, weight.pieces, numbers);
  return numbers;
}

/// A product, and how far a float32 one may be from it.
struct Bound {
  Values expected, bound;
};

Bound product_of(ConstView x, ConstView weight, ConstView bias) {
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[0];
  const auto product = [&](const auto& of) {
    return reference::linear(of(values(x)), of(values(weight)), of(values(bias)), rows, in, out);
  };
  Bound made{product([](const Values& same) { return same; }),
             product([](const Values& any) { return reference::absolute(any); })};
  for (double& each : made.bound) each *= sum_error(in);
  return made;
}

// Outputs below, at and above a part's.
// Measured: 0.03 of the bound for f32, 0.02 for bf16.
TEST(KeptWeight, ProductsEqualTheReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const int64_t out : {1, 31, 255, 256, 257, 700}) {
      const Weight weight = weight_of(out);
      const Linear kept = ops::keep_stored(ctx, weight.pieces, weight.shape, dtype);
      EXPECT_EQ(kept.out, out);
      EXPECT_EQ(kept.size_in_bytes(), 0u);
      const Tensor numbers = numbers_of(ctx, weight, dtype);
      for (const int64_t rows : {0, 1, 65}) {
        const Tensor x = random_tensor(dtype, {rows, kept.in}, 1);
        Guarded y(DType::f32, {rows, out});
        ops::linear(ctx, x, kept, y);
        const Bound by = product_of(x, numbers, {});
        worst(dtype, expect_within(y, by.expected, by.bound, fmt::format("{} {}x{}", name(dtype), rows, out)));
        y.expect_guards_untouched();
      }
    }
  }
}

// A part's outputs are those of the whole packed weight where a library does not choose its order of sums by them.
TEST(KeptWeight, ProductsAreThoseOfThePackedWeight) {
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    const Weight weight = weight_of(600);
    const Tensor numbers = numbers_of(ctx, weight, dtype), bias = random_tensor(DType::f32, {600}, 3);
    Linear kept = ops::keep_stored(ctx, weight.pieces, weight.shape, dtype), packed = ops::pack_linear(ctx, numbers);
    kept.bias = packed.bias = bias;
    const Tensor x = random_tensor(dtype, {130, kept.in}, 1), before = random_tensor(DType::f32, {130, 600}, 4);
    for (const bool accumulate : {false, true}) {
      Guarded a(DType::f32, {130, 600}), b(DType::f32, {130, 600});
      copy_bytes(before, a);
      copy_bytes(before, b);
      ops::linear(ctx, x, kept, a, accumulate);
      ops::linear(ctx, x, packed, b, accumulate);
      expect_same_bits(a, b, fmt::format("{}{}", name(dtype), accumulate ? " accumulated" : ""));
      a.expect_guards_untouched();
    }
  }
}

TEST(KeptWeight, RowsDependOnThemselvesAlone) {
  Context one({}, 1), two({}, 2);
  for (const DType dtype : product_dtypes()) {
    const Weight weight = weight_of(600);
    const Linear kept = ops::keep_stored(one, weight.pieces, weight.shape, dtype);
    const Tensor x = random_tensor(dtype, {1000, kept.in}, 1);
    Tensor all(Device{}, DType::f32, {1000, 600});
    ops::linear(one, x, kept, all);
    for (Context* ctx : {&one, &two}) {
      for (const int64_t count : {1, 7, 32, 33, 64, 65, 999}) {
        for (const int64_t first : {int64_t{0}, (1000 - count) / 2, 1000 - count}) {
          Guarded part(DType::f32, {count, 600});
          ops::linear(*ctx, x.view().rows(first, count), kept, part);
          ASSERT_TRUE(same_bits(all.view().rows(first, count), part)) << name(dtype) << " " << first << " + " << count;
          part.expect_guards_untouched();
        }
      }
    }
  }
}

TEST(KeptWeight, SumsAndGatesTakeIt) {
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    const Weight weight = weight_of(300);
    const Tensor numbers = numbers_of(ctx, weight, dtype), x = random_tensor(dtype, {33, 512}, 1);
    const Linear kept = ops::keep_stored(ctx, weight.pieces, weight.shape, dtype),
                 packed = ops::pack_linear(ctx, numbers);
    Guarded sums(DType::f32, {33, 300}), expected(DType::f32, {33, 300});
    ops::linear_sum(ctx, x, kept, x, packed, sums);
    ops::linear_sum(ctx, x, packed, x, packed, expected);
    expect_same_bits(sums, expected, "sums");
    Tensor scratch(Device{}, DType::f32, {33, 300});
    Guarded gated(dtype, {33, 150}), gated_packed(dtype, {33, 150});
    ops::gated_linear(ctx, x, {kept, false}, scratch, gated);
    ops::gated_linear(ctx, x, {packed, false}, scratch, gated_packed);
    expect_same_bits(gated, gated_packed, "gates");
  }
}

// Pieces of a fused weight may be of plain numbers, too.
TEST(KeptWeight, TakesPlainPieces) {
  Context ctx({}, 1);
  const Tensor plain = random_tensor(DType::bf16, {5, 512}, 1), x = random_tensor(DType::f32, {3, 512}, 2);
  const Weight rotated = weight_of(4);
  std::vector<StoredPiece> pieces = rotated.pieces;
  pieces.push_back(in_one_piece(StoredMatrix::whole({StoredType::bf16}, 5, 512, plain.view().bytes()), 4));
  const Linear kept = ops::keep_stored(ctx, pieces, {9, 512}, DType::f32);
  Tensor numbers(Device{}, DType::f32, {9, 512});
  ops::dequantise(ctx, pieces, numbers);
  EXPECT_EQ(values(numbers.view().rows(4, 5)), values(plain));
  Guarded y(DType::f32, {3, 9});
  ops::linear(ctx, x, kept, y);
  const Bound by = product_of(x, numbers, {});
  expect_within(y, by.expected, by.bound, "mixed");
}

TEST(KeptWeight, WrongPiecesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Weight weight = weight_of(4);
  EXPECT_THROW(ops::keep_stored(ctx, weight.pieces, {5, 512}, DType::f32), Error);
  EXPECT_THROW(ops::keep_stored(ctx, weight.pieces, weight.shape, DType::f16), Error);
  if (ops::has_bf16_products(ctx)) return;
  EXPECT_THROW(ops::keep_stored(ctx, weight.pieces, weight.shape, DType::bf16), Error);
}

}  // namespace
}  // namespace nostos
