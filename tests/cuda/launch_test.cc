// Tests the launch choices of CUDA's kernels, without a GPU.
#include "ops/cuda/launch.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos::cuda {
namespace {

constexpr int kMultiprocessors = 132;

TEST(GpuLimits, AreThoseOfTheSmallestGeneration) {
  EXPECT_TRUE(fits_every_gpu(1024, 99 << 10));
  EXPECT_FALSE(fits_every_gpu(1025, 0));
  EXPECT_FALSE(fits_every_gpu(32, (99 << 10) + 1));
  EXPECT_TRUE(fits_every_gpu(512, 0, 3));
  EXPECT_FALSE(fits_every_gpu(512, 0, 4));
}

TEST(RowLaunch, CoversEveryChannelAtMostOnce) {
  for (const int64_t channels :
       {1, 2, 15, 16, 31, 33, 65, 384, 1000, 1024, 2047, 2048, 2560, 3840, 5120, 10240, 16384}) {
    const RowLaunch launch = row_launch(4128, channels, kMultiprocessors);
    EXPECT_EQ(channels % launch.vector, 0);
    EXPECT_EQ(launch.threads % 32, 0);
    EXPECT_GE(int64_t{launch.threads} * launch.groups * launch.vector, channels);
    EXPECT_LE(launch.threads, kRowThreads);
    // No more threads than the row fills, up to the last warp.
    EXPECT_LT(int64_t{launch.threads - 32} * launch.groups * launch.vector, channels);
  }
}

TEST(RowLaunch, SumsTheSameWhateverTheRows) {
  for (const int64_t channels : {33, 384, 3840}) {
    const RowLaunch one = row_launch(1, channels, kMultiprocessors), many = row_launch(100000, channels, 16);
    EXPECT_EQ(one.vector, many.vector);
    EXPECT_EQ(one.groups, many.groups);
    EXPECT_EQ(one.threads, many.threads);
    EXPECT_EQ(one.blocks, 1);
    EXPECT_LE(many.blocks * many.threads, 16 * row_resident_threads(many.groups, false));
    EXPECT_GE(many.blocks, 16);
    const RowLaunch two = row_launch(100000, channels, 16, true);
    EXPECT_EQ(two.threads, many.threads);
    EXPECT_LE(two.blocks * two.threads, 16 * row_resident_threads(two.groups, true));
  }
}

TEST(RowLaunch, AWarpRoundsWholeRotations) {
  for (const int64_t channels : {256, 512, 768, 2560, 3840, 4096}) {
    const RowLaunch launch = rounded_row_launch(100000, channels, kMultiprocessors);
    EXPECT_EQ(launch.vector * 32, 256);
    EXPECT_GE(int64_t{launch.threads} * launch.groups * launch.vector, channels);
    EXPECT_LT(int64_t{launch.threads - 32} * launch.groups * launch.vector, channels);
    EXPECT_LE(launch.threads, kRoundedThreads);
    EXPECT_EQ(launch.blocks, kMultiprocessors * kRoundedBlocks);
    // Whose sums it repeats.
    EXPECT_EQ(row_launch(1, channels, kMultiprocessors, true).groups, 1);
    EXPECT_EQ(row_launch(1, channels, kMultiprocessors, true).threads, channels / kVector);
  }
  EXPECT_THROW(rounded_row_launch(1, 4352, kMultiprocessors), Error);
  EXPECT_THROW(rounded_row_launch(1, 288, kMultiprocessors), Error);
}

TEST(RowLaunch, RefusesRowsThatDoNotFit) {
  EXPECT_NO_THROW(row_launch(1, 16384, kMultiprocessors));
  EXPECT_THROW(row_launch(1, 16392, kMultiprocessors), Error);
  EXPECT_NO_THROW(row_launch(1, 2047, kMultiprocessors));
  EXPECT_THROW(row_launch(1, 2049, kMultiprocessors), Error);
}

TEST(GroupSumsLaunch, BlocksHoldWholeGroups) {
  struct Case {
    int64_t channels, groups;
  };
  for (const Case& c : {Case{4, 2},
                        {32, 32},
                        {33, 3},
                        {64, 32},
                        {96, 4},
                        {128, 32},
                        {256, 32},
                        {512, 32},
                        {192, 32},
                        {512, 2},
                        {100, 25}}) {
    const GroupSumsLaunch launch = group_sums_launch(c.channels, c.groups);
    const int64_t width = c.channels / c.groups;
    EXPECT_EQ(launch.lanes * launch.vector, launch.block_groups * width);
    EXPECT_GE(launch.blocks_a_row * launch.block_groups, c.groups);
    EXPECT_LT((launch.blocks_a_row - 1) * launch.block_groups, c.groups);
    EXPECT_LE(launch.threads(), 256);
    EXPECT_GE(launch.pixels, 1);
    // A vector lies within the block's channels and begins at a whole vector of the pixel.
    EXPECT_EQ(c.channels % launch.vector, 0);
    EXPECT_EQ(launch.block_groups * width % launch.vector, 0);
  }
  EXPECT_EQ(group_sums_launch(128, 32).vector, 4);
  EXPECT_EQ(group_sums_launch(33, 3).vector, 1);
  EXPECT_THROW(group_sums_launch(514, 2), Error);
}

TEST(GroupApplyLaunch, CoversThePixel) {
  for (const int64_t channels : {1, 4, 33, 64, 96, 128, 512, 2048, 2056, 4096}) {
    const GroupApplyLaunch launch = group_apply_launch(channels);
    EXPECT_EQ(channels % launch.vector, 0);
    EXPECT_GE(launch.pixels, 1);
    EXPECT_LE(launch.lanes * launch.pixels, 256);
    EXPECT_LE(launch.lanes * launch.vector, channels);
  }
}

TEST(HopperTiles, CoverTheRowsInFewRounds) {
  for (const int64_t columns : {1, 3, 4, 8, 30, 107}) {
    for (const int64_t rows : {1, 64, 65, 192, 288, 1057, 2112, 4160, 16448}) {
      const HopperTiles launch = hopper_tiles(columns, rows, kMultiprocessors);
      EXPECT_GE(launch.long_tiles * 192 + launch.short_tiles * 128, rows);
      EXPECT_LT((launch.long_tiles - 1) * 192 + launch.short_tiles * 128, rows) << "a long tile too many";
      EXPECT_LE(launch.blocks, kMultiprocessors);
      EXPECT_LE(launch.blocks, columns * (launch.long_tiles + launch.short_tiles));
    }
  }
  const auto tiles = [](int64_t columns, int64_t rows) {
    const HopperTiles launch = hopper_tiles(columns, rows, kMultiprocessors);
    return std::pair(launch.long_tiles, launch.short_tiles);
  };
  EXPECT_EQ(tiles(30, 4160), std::pair(22, 0));  // five full rounds
  EXPECT_EQ(tiles(4, 4160), std::pair(0, 33));   // one round of either: a short one
  EXPECT_EQ(tiles(30, 2112), std::pair(8, 5));   // two rounds of long tiles and one of short ones instead of three
}

TEST(VectorHeads, ArePowersOfTwo) {
  for (const int64_t head_dim : {16, 32, 64, 128, 256}) EXPECT_TRUE(has_vector_heads(head_dim)) << head_dim;
  for (const int64_t head_dim : {2, 8, 34, 48, 96, 512}) EXPECT_FALSE(has_vector_heads(head_dim)) << head_dim;
}

TEST(CopyWord, DividesAddressesAndRows) {
  EXPECT_EQ(copy_word_bytes(256, 512, 256), 16);
  EXPECT_EQ(copy_word_bytes(256, 512, 264), 4);
  EXPECT_EQ(copy_word_bytes(256, 514, 256), 2);
  EXPECT_EQ(copy_word_bytes(257, 512, 256), 1);
}

}  // namespace
}  // namespace nostos::cuda
