// Tests rotary tables against the formula in float64.
#include "nn/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"

namespace nostos::nn {
namespace {

// A float32 angle near 1500 has a spacing of 1.2e-4: that is how far the formula in float64 may be away.
constexpr double kAngleSpacing = 1.3e-4;

TEST(Rope, AxialJoinsThreeAxes) {
  Context ctx({}, 1);
  const std::vector<int64_t> dims{4, 6, 2};
  const std::vector<AxialPosition> positions{{0, 0, 0}, {33, 0, 1}, {33, 5, 44}, {1500, 511, 7}};
  Arena arena({}, 4096);
  const RopeTable table = RopeTable::take(arena, 4, 12);
  fill_axial_rope(ctx, {dims, 256}, positions, table);
  for (size_t t = 0; t < positions.size(); ++t) {
    int64_t pair = 0;
    for (size_t axis = 0; axis < 3; ++axis) {
      for (int64_t i = 0; i < dims[axis] / 2; ++i, ++pair) {
        const double angle = static_cast<double>(positions[t][axis]) *
                             std::pow(256.0, -2.0 * static_cast<double>(i) / static_cast<double>(dims[axis]));
        const size_t at = t * 6 + static_cast<size_t>(pair);
        EXPECT_NEAR(table.cos.data<float>()[at], std::cos(angle), kAngleSpacing);
        EXPECT_NEAR(table.sin.data<float>()[at], std::sin(angle), kAngleSpacing);
      }
    }
  }
  EXPECT_EQ(table.cos.data<float>()[0], 1.f);
  EXPECT_EQ(table.sin.data<float>()[0], 0.f);
}

TEST(Rope, AxesMustFillTheHead) {
  Context ctx({}, 1);
  Arena arena({}, 4096);
  const RopeTable table = RopeTable::take(arena, 1, 12);
  EXPECT_THROW(fill_axial_rope(ctx, {std::vector<int64_t>{4, 4, 2}, 256}, std::vector<AxialPosition>(1), table), Error);
  EXPECT_THROW(fill_axial_rope(ctx, {std::vector<int64_t>{4, 6, 2}, 256}, std::vector<AxialPosition>(2), table), Error);
}

TEST(Rope, SequenceCountsFromZero) {
  Context ctx({}, 1);
  Arena arena({}, 65536);
  const RopeTable table = RopeTable::take(arena, 300, 16);
  fill_sequence_rope(ctx, 1e6, table);
  for (const int64_t t : {0, 1, 17, 299}) {
    for (int64_t i = 0; i < 8; ++i) {
      const double angle = static_cast<double>(t) * std::pow(1e6, -static_cast<double>(i) / 8);
      EXPECT_NEAR(table.cos.data<float>()[t * 8 + i], std::cos(angle), kAngleSpacing);
      EXPECT_NEAR(table.sin.data<float>()[t * 8 + i], std::sin(angle), kAngleSpacing);
    }
  }
}

}  // namespace
}  // namespace nostos::nn
