// Tests cutting tensors by a shard plan and gathering them: the whole comes back bit for bit, at every size.
#include "parallel/gather.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace nostos::parallel {
namespace {

constexpr std::byte kUnwritten{0xA5};

/// \return a u8 tensor of position hashes, so that no two places that a wrong plan would mix up agree throughout.
Tensor hashed(const Shape& shape) {
  Tensor tensor(Device{}, DType::u8, shape);
  uint8_t* values = tensor.data<uint8_t>();
  for (int64_t i = 0; i < shape.elements(); ++i)
    values[i] = static_cast<uint8_t>((static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15u) >> 56);
  return tensor;
}

Tensor unwritten(const Shape& shape) {
  Tensor tensor(Device{}, DType::u8, shape);
  std::memset(tensor.view().bytes(), static_cast<int>(kUnwritten), tensor.size_in_bytes());
  return tensor;
}

void expect_equal(const Tensor& got, const Tensor& want) {
  ASSERT_EQ(got.shape(), want.shape());
  ASSERT_EQ(std::memcmp(got.view().bytes(), want.view().bytes(), want.size_in_bytes()), 0);
}

/// Cuts the rows of a padded sequence by every rank's runs and puts them together again.
void expect_tokens_restored(const ShardPlan& plan, const Tensor& whole) {
  Tensor restored = unwritten(whole.shape());
  Tensor part(Device{}, DType::u8, whole.shape());
  for (int64_t rank = 0; rank < plan.request.ranks; ++rank) {
    int64_t rows = 0;
    for (const Range& run : native_runs(plan, rank)) {
      std::memcpy(part.view().rows(rows, run.count).bytes(), whole.view().rows(run.begin, run.count).bytes(),
                  static_cast<size_t>(run.count * whole.shape()[1]));
      rows += run.count;
    }
    ASSERT_EQ(rows, plan.shares[static_cast<size_t>(rank)].active());
    rows = 0;
    for (const Range& run : native_runs(plan, rank)) {
      std::memcpy(restored.view().rows(run.begin, run.count).bytes(), part.view().rows(rows, run.count).bytes(),
                  static_cast<size_t>(run.count * whole.shape()[1]));
      rows += run.count;
    }
  }
  expect_equal(restored, whole);
}

/// Cuts [channels, height, width] into the plan's rectangles, each in a buffer of the largest shard as an all-gather
/// leaves them, and gathers.
void expect_latent_restored(const ShardPlan& plan, const Tensor& whole) {
  const auto& [grid, ranks, kind, heads, patch] = plan.request;
  int64_t rows = 0, columns = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    rows = std::max(rows, latent_bounds(plan, rank).rows.count);
    columns = std::max(columns, latent_bounds(plan, rank).columns.count);
  }
  const int64_t channels = whole.shape()[0];
  Tensor parts = unwritten({ranks, channels, rows, columns});
  for (int64_t rank = 0; rank < ranks; ++rank) {
    cut_latent(latent_bounds(plan, rank), whole, parts.view().rows(rank, 1).reshape({channels, rows, columns}));
  }
  Tensor restored = unwritten(whole.shape());
  gather_latent(plan, parts, restored);
  expect_equal(restored, whole);
}

TEST(Gather, RestoresEverySizeOnOneToEightRanks) {
  for (int64_t height = 16; height <= 128; ++height) {
    for (int64_t width = 16; width <= 128; ++width) {
      const Tensor latent = hashed({1, 2 * height, 2 * width});
      const Tensor sequence = hashed({Grid{height, width}.padded(), 1});
      for (int64_t ranks = 1; ranks <= 8; ++ranks) {
        SCOPED_TRACE(testing::Message() << 16 * width << "x" << 16 * height << " on " << ranks);
        for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
          const ShardPlan plan = make_plan({.grid = {height, width}, .ranks = ranks, .kind = kind, .heads = 6});
          expect_tokens_restored(plan, sequence);
          if (kind == PlanKind::axis) expect_latent_restored(plan, latent);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST(Gather, RestoresWideRowsChannelsAndRanksBeyondTheTokens) {
  for (const Grid& grid : {Grid{1, 1}, Grid{1, 64}, Grid{64, 1}, Grid{5, 7}, Grid{13, 21}, Grid{45, 80}}) {
    const Tensor padded = hashed({grid.padded(), 12});
    const Tensor latent = hashed({16, 2 * grid.height, 2 * grid.width});
    for (const int64_t ranks : {1, 2, 3, 7, 30, 40}) {
      SCOPED_TRACE(testing::Message() << grid.height << "x" << grid.width << " tokens on " << ranks);
      for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
        const ShardPlan plan = make_plan({.grid = grid, .ranks = ranks, .kind = kind, .heads = 6});
        expect_tokens_restored(plan, padded);
        if (kind == PlanKind::axis) expect_latent_restored(plan, latent);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(Gather, APartHoldsTheTokensOfItsRectangle) {
  // 3 columns and 2 rows of tokens on 3 ranks: rank 1 has the middle column, tokens 1 and 4.
  const ShardPlan plan = make_plan({.grid = {2, 3}, .ranks = 3, .kind = PlanKind::axis, .heads = 6});
  EXPECT_EQ(native_runs(plan, 1), (std::vector<Range>{{1, 1}, {4, 1}}));
}

TEST(Gather, LeavesWhatLiesBeyondTheRectangleAlone) {
  const Tensor whole = hashed({1, 4, 6});
  Tensor part = unwritten({1, 3, 6});
  cut_latent({{2, 2}, {2, 4}}, whole, part);
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t column = 0; column < 6; ++column) {
      const bool inside = row < 2 && column < 4;
      const uint8_t want =
          inside ? whole.data<uint8_t>()[6 * (row + 2) + column + 2] : static_cast<uint8_t>(kUnwritten);
      EXPECT_EQ(part.data<uint8_t>()[6 * row + column], want) << row << ", " << column;
    }
  }
}

TEST(Gather, WithoutAPlanJoinsEqualShardsAlongHeight) {
  const Tensor whole = hashed({4, 12, 5});
  Tensor parts(Device{}, DType::u8, {3, 4, 4, 5});
  for (int64_t rank = 0; rank < 3; ++rank)
    cut_latent({{4 * rank, 4}, {0, 5}}, whole, parts.view().rows(rank, 1).reshape({4, 4, 5}));
  Tensor restored = unwritten(whole.shape());
  gather_latent(parts, restored);
  expect_equal(restored, whole);
}

TEST(Gather, RefusesOtherShapes) {
  const ShardPlan plan = make_plan({.grid = {5, 7}, .ranks = 2, .kind = PlanKind::axis, .heads = 6});
  const ShardPlan token = make_plan({.grid = {5, 7}, .ranks = 2, .heads = 6});
  const auto u8 = [](const Shape& shape) { return Tensor(Device{}, DType::u8, shape); };

  EXPECT_THROW(cut_latent({{0, 3}, {0, 4}}, u8({1, 4, 4}), u8({1, 2, 4})), Error);
  EXPECT_THROW(cut_latent({{3, 2}, {0, 4}}, u8({1, 4, 4}), u8({1, 2, 4})), Error);
  EXPECT_THROW(cut_latent({{0, 2}, {0, 4}}, u8({1, 4, 4}), u8({2, 2, 4})), Error);

  const Rectangle largest = latent_bounds(plan, 0);
  const Shape parts{2, 1, largest.rows.count, largest.columns.count};
  EXPECT_NO_THROW(gather_latent(plan, u8(parts), u8({1, 10, 14})));
  EXPECT_THROW(gather_latent(plan, u8(parts), u8({1, 14, 10})), Error);
  EXPECT_THROW(gather_latent(plan, u8({3, 1, parts[2], parts[3]}), u8({1, 10, 14})), Error);
  EXPECT_THROW(gather_latent(token, u8(parts), u8({1, 10, 14})), Error);
  EXPECT_THROW(gather_latent(u8({3, 1, 4, 5}), u8({1, 11, 5})), Error);
  EXPECT_THROW(gather_latent(u8({3, 1, 4, 6}), u8({1, 12, 5})), Error);
}

}  // namespace
}  // namespace nostos::parallel
