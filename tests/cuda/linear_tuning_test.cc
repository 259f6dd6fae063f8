// Tests the choice among algorithms of a matrix product, without a GPU.
#include "ops/cuda/linear_tuning.h"

#include <gtest/gtest.h>

#include "ops/cuda/launch.h"

namespace nostos::cuda {
namespace {

/// A candidate whose rows sum in order `order`, the same whatever their number.
AlgorithmTrial independent(uint64_t order) {
  AlgorithmTrial trial;
  for (const int64_t rows : kSurveyRows) {
    std::vector<uint64_t> digests;
    for (int64_t row = 0; row < rows; ++row) digests.push_back(order * 1000003 + static_cast<uint64_t>(row));
    trial.push_back(digests);
  }
  return trial;
}

using Indices = std::vector<size_t>;

TEST(AlgorithmGroup, IsTheLargest) {
  const std::vector<AlgorithmTrial> trials = {independent(1), independent(2), independent(2), independent(3),
                                              independent(2)};
  EXPECT_EQ(choose_algorithm_group(trials), (Indices{1, 2, 4}));
}

TEST(AlgorithmGroup, OfEquallyLargeIsTheFirst) {
  const std::vector<AlgorithmTrial> trials = {independent(5), independent(1), independent(1), independent(5)};
  EXPECT_EQ(choose_algorithm_group(trials), (Indices{0, 3}));
}

TEST(AlgorithmGroup, LeavesOutRowsThatDependOnTheirNumber) {
  AlgorithmTrial split = independent(1);
  split[2].back() ^= 1;  // one row of 130 differs from the same row of 4128
  const std::vector<AlgorithmTrial> trials = {split, split, independent(1)};
  EXPECT_EQ(choose_algorithm_group(trials), (Indices{2}));
}

TEST(AlgorithmGroup, TakesWhatServesSomeNumbersOfRows) {
  AlgorithmTrial few = independent(1), other = independent(2);
  for (size_t n = 2; n < few.size(); ++n) few[n].clear(), other[n].clear();
  const std::vector<AlgorithmTrial> trials = {AlgorithmTrial{}, other, few, independent(1)};
  EXPECT_EQ(choose_algorithm_group(trials), (Indices{2, 3}));
}

TEST(AlgorithmGroup, ServesEveryNumberOfRowsOrIsNone) {
  AlgorithmTrial many = independent(1);
  many[0].clear();
  EXPECT_TRUE(choose_algorithm_group(std::vector{many, many, AlgorithmTrial{}}).empty());
  const std::vector<AlgorithmTrial> trials = {many, many, independent(2)};
  EXPECT_EQ(choose_algorithm_group(trials), (Indices{2}));
  EXPECT_TRUE(choose_algorithm_group({}).empty());
}

TEST(RowBucket, RoundsUpToTheSmallestTile) {
  EXPECT_EQ(row_bucket(1), 64);
  EXPECT_EQ(row_bucket(64), 64);
  EXPECT_EQ(row_bucket(65), 128);
  EXPECT_EQ(row_bucket(4128), 4160);
  EXPECT_EQ(row_bucket(kLargestBucket), kLargestBucket);
  EXPECT_EQ(row_bucket(16448), kLargestBucket);
}

TEST(QueryBlock, FillsTheGpuWithinItsMemory) {
  EXPECT_EQ(query_block(100, 16384, DType::bf16), 100);
  EXPECT_EQ(query_block(16384, 16384, DType::bf16), 4096);
  EXPECT_EQ(query_block(65536, 65536, DType::bf16), 4096);  // 1.5 GiB
  for (const int64_t keys : {1, 1000, 65536, 262144, 1 << 30}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const int64_t block = query_block(1 << 20, keys, dtype);
      EXPECT_GE(block, 64);
      if (block > 64) {
        EXPECT_LE(block * keys * (dtype == DType::bf16 ? 6 : 4), kScoreBytes) << keys;
      }
    }
  }
}

}  // namespace
}  // namespace nostos::cuda
