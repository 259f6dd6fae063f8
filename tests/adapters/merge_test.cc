// Tests the merged weight against plain definitions, and its corners.
#include "adapters/merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adapters/factors.h"
#include "base/error.h"

namespace nostos::test {
namespace {

Matrix counted(int64_t rows, int64_t columns, float begin) {
  Matrix matrix{rows, columns, {}};
  for (int64_t i = 0; i < rows * columns; ++i) matrix.values.push_back(begin + static_cast<float>(i % 7) / 4);
  return matrix;
}

SharedMatrix shared(Matrix matrix) { return std::make_shared<const Matrix>(std::move(matrix)); }

WeightUpdate update_of(int64_t first_row, int64_t rows, int64_t columns, double scale,
                       std::variant<LowRank, Kronecker, Dense> delta) {
  return {"transformer", "x.weight", first_row, rows, columns, scale, std::move(delta), std::nullopt};
}

TEST(Merge, LowRankInSomeRows) {
  const Matrix up = counted(2, 3, -1), down = counted(3, 4, 0.5f), before = counted(5, 4, 1);
  Matrix weight = before;
  merge_update(update_of(1, 2, 4, 0.5, LowRank{shared(up), shared(down)}), 2, weight.values);
  for (int64_t i = 0; i < 5; ++i)
    for (int64_t j = 0; j < 4; ++j) {
      double sum = static_cast<double>(before.row(i)[j]);
      for (int64_t r = 0; r < 3 && i >= 1 && i < 3; ++r)
        sum += static_cast<double>(up.row(i - 1)[r]) * static_cast<double>(down.row(r)[j]);
      EXPECT_EQ(weight.row(i)[j], static_cast<float>(sum));
    }
}

TEST(Merge, KroneckerFromARowOfTheProduct) {
  const Matrix left = counted(3, 2, -1), right = counted(4, 3, 0.25f);
  const Matrix whole = kronecker_product(left, right);
  for (int64_t first = 0; first < 4; ++first) {
    Matrix weight{7, 6, std::vector<float>(42)};
    merge_update(update_of(0, 7, 6, 1, Kronecker{shared(left), shared(right), first}), 1, weight.values);
    EXPECT_EQ(weight.values, rows_of(whole, first, 7).values);
  }
}

TEST(Merge, ProductsOfFactors) {
  // (A B) o (C D) = row_products(A, C) column_products(B, D)
  const Matrix a = counted(4, 2, 0.5f), b = counted(2, 5, -1), c = counted(4, 3, 1), d = counted(3, 5, 0.25f);
  EXPECT_EQ(product(row_products(a, c), column_products(b, d)).values,
            elementwise_product(product(a, b), product(c, d)).values);
  // (A B) x (C D) = (A x C) (B x D)
  EXPECT_EQ(product(kronecker_product(a, c), kronecker_product(b, d)).values,
            kronecker_product(product(a, b), product(c, d)).values);
  EXPECT_EQ(product(identity(4), a).values, a.values);
}

TEST(Merge, MagnitudesAreTheLengthsAfterwards) {
  const Matrix before = counted(3, 4, 1);
  for (const auto axis : {Magnitude::Axis::each_row, Magnitude::Axis::each_column}) {
    WeightUpdate update = update_of(0, 3, 4, 1, Dense{shared(counted(3, 4, -0.5f))});
    const bool by_row = axis == Magnitude::Axis::each_row;
    update.magnitude = Magnitude{axis, by_row ? std::vector<float>{2, -3, 4} : std::vector<float>{2, -3, 4, 5}};
    Matrix weight = before, plain = before;
    merge_update(update, 1, weight.values);
    update.magnitude.reset();
    merge_update(update, 1, plain.values);
    for (int64_t line = 0; line < (by_row ? 3 : 4); ++line) {
      double squares = 0;
      for (int64_t i = 0; i < (by_row ? 4 : 3); ++i) {
        const float *row = weight.row(by_row ? line : i), *was = plain.row(by_row ? line : i);
        const int64_t j = by_row ? i : line;
        squares += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        EXPECT_EQ(row[j] * was[j] > 0, line != 1) << "a negative length turns the direction";
      }
      EXPECT_NEAR(std::sqrt(squares), line == 1 ? 3 : line + 2, 1e-6);
    }
  }
}

TEST(Merge, ARowOfZerosHasNoDirection) {
  WeightUpdate update = update_of(0, 2, 2, 1, Dense{shared({2, 2, {1, 0, 0, 0}})});
  update.magnitude = Magnitude{Magnitude::Axis::each_row, {3, 5}};
  std::vector<float> weight(4);
  merge_update(update, 1, weight);
  EXPECT_EQ(weight, (std::vector<float>{3, 0, 0, 0}));
}

TEST(Merge, NaNStaysInItsRow) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> weight{1, 1, 1, 1};
  merge_update(update_of(0, 2, 2, 1, LowRank{shared({2, 1, {nan, 1}}), shared({1, 2, {1, 1}})}), 1, weight);
  EXPECT_TRUE(std::isnan(weight[0]) && std::isnan(weight[1]));
  EXPECT_EQ(weight[2], 2);
  EXPECT_EQ(weight[3], 2);
}

TEST(Merge, RowsOutsideAreABug) {
  std::vector<float> weight(4);
  EXPECT_THROW(merge_update(update_of(1, 2, 2, 1, Dense{shared({2, 2, {1, 1, 1, 1}})}), 1, weight), Error);
}

}  // namespace
}  // namespace nostos::test
