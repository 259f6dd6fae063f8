// Tests rotary tables against the formula in float64, and FLUX.2's against diffusers' own.
#include "nn/rope.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

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

// cos and sin are the C library's, there and here, so that a last bit may differ from machine to machine.
TEST(Rope, OfFlux2EqualsDiffusers) {
  Context ctx({}, 1);
  const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/rope_klein.safetensors");
  const ConstView given = file.tensor("positions");
  std::vector<AxialPosition> positions(static_cast<size_t>(given.shape()[0]));
  for (size_t i = 0; i < positions.size(); ++i)
    std::copy_n(given.data<int64_t>() + 4 * i, 4, positions[i].begin());
  const std::vector<int64_t> dims{32, 32, 32, 32};
  Arena arena({}, 65536);
  const RopeTable table = RopeTable::take(arena, std::ssize(positions), 128);
  fill_axial_rope(ctx, {dims, 2000, RopeAngles::float64}, positions, table);
  const auto expect_same = [](ConstView made, ConstView wanted) {
    ASSERT_EQ(made.shape(), wanted.shape());
    for (int64_t i = 0; i < wanted.elements(); ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(made.data<float>()[i]), std::bit_cast<uint32_t>(wanted.data<float>()[i])) << i;
  };
  expect_same(table.cos, file.tensor("cos"));
  expect_same(table.sin, file.tensor("sin"));
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
