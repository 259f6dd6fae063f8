// Tests dealt rows with integer data: shares, halos, padding, gathers, and what ranks without rows do.
#include "nn/row_shards.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/error.h"
#include "parallel/self_communicator.h"
#include "parallel/thread_communicator.h"

namespace nostos::nn {
namespace {

constexpr int64_t kWidth = 5;
constexpr int32_t kUnset = -1;

/// \return an i32 tensor [rows, kWidth] that holds kUnset.
Tensor unset_rows(int64_t rows) {
  Tensor made({}, DType::i32, {rows, kWidth});
  std::fill_n(made.data<int32_t>(), rows * kWidth, kUnset);
  return made;
}

/// Writes what the image holds in rows from `first` on: another number for each element.
void fill_image_rows(View rows, int64_t first, int32_t seed) {
  for (int64_t i = 0; i < rows.elements(); ++i)
    rows.data<int32_t>()[i] = seed + static_cast<int32_t>(first * kWidth + i);
}

std::vector<int32_t> contents(ConstView view) { return {view.data<int32_t>(), view.data<int32_t>() + view.elements()}; }

/// \return rows [first, first + count) of the image.
std::vector<int32_t> image_rows(int64_t first, int64_t count, int32_t seed) {
  Tensor rows({}, DType::i32, {count, kWidth});
  fill_image_rows(rows, first, seed);
  return contents(rows);
}

class RowShardsOfWorld : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(World, RowShardsOfWorld, testing::Range(1, 9));

TEST_P(RowShardsOfWorld, DealEveryRowOnceAtEveryScale) {
  for (const int64_t rows : {1, 2, 7, 8, 9, 90}) {
    for (const int64_t scale : {1, 2, 8}) {
      std::vector<parallel::Range> locals(static_cast<size_t>(GetParam()));
      run_thread_ranks(GetParam(), [&](Communicator& comm) {
        const RowShards shards(comm, rows);
        EXPECT_EQ(shards.rows(), rows);
        locals[static_cast<size_t>(comm.rank())] = shards.local(scale);
      });
      int64_t next = 0;
      for (const parallel::Range& local : locals) {
        EXPECT_EQ(local.begin, next);
        EXPECT_EQ(local.count % scale, 0);
        next = local.end();
      }
      EXPECT_EQ(next, rows * scale);
    }
  }
}

TEST_P(RowShardsOfWorld, HaloRowsAreTheNeighbours) {
  for (const int64_t rows : {1, 2, 7, 8, 9, 30}) {
    for (const int64_t scale : {1, 2}) {
      run_thread_ranks(GetParam(), [&](Communicator& comm) {
        const Context ctx({}, 1);
        const RowShards shards(comm, rows);
        const parallel::Range local = shards.local(scale);
        const bool has_above = local.count > 0 && local.begin > 0;
        const bool has_below = local.count > 0 && local.end() < rows * scale;
        ASSERT_EQ(shards.slab_rows(scale), local.count + has_above + has_below);
        EXPECT_EQ(shards.padding().top, has_above ? 0 : 1);
        EXPECT_EQ(shards.padding().bottom, has_below ? 0 : 1);
        EXPECT_EQ(shards.padding().left, 1);
        EXPECT_EQ(shards.padding().right, 1);
        for (const int32_t seed : {0, 100000}) {  // twice: nothing stays from an earlier exchange
          Tensor slab = unset_rows(shards.slab_rows(scale));
          const View own = shards.own_of_slab(slab);
          ASSERT_EQ(own.shape()[0], local.count);
          fill_image_rows(own, local.begin, seed);
          shards.exchange_halo(ctx, slab);
          EXPECT_EQ(contents(slab), image_rows(local.begin - has_above, shards.slab_rows(scale), seed))
              << "rank " << comm.rank() << " of " << comm.world() << ", " << rows << " rows at " << scale;
        }
        EXPECT_EQ(comm.traffic().messages, 2u * (has_above + has_below));
        EXPECT_EQ(comm.traffic().bytes, comm.traffic().messages * kWidth * sizeof(int32_t));
      });
    }
  }
}

TEST_P(RowShardsOfWorld, GatherPutsRowsInTheImagesOrder) {
  for (const int64_t rows : {1, 2, 7, 8, 9, 30}) {
    run_thread_ranks(GetParam(), [&](Communicator& comm) {
      const Context ctx({}, 1);
      const RowShards shards(comm, rows);
      // Two tensors of unlike scales at once, as keys and values or sums and pixels are.
      Tensor first = unset_rows(rows), second = unset_rows(3 * rows);
      fill_image_rows(shards.own_of_whole(first), shards.local().begin, 7);
      fill_image_rows(shards.own_of_whole(second), shards.local(3).begin, 1000);
      shards.gather(ctx, {first, second});
      EXPECT_EQ(contents(first), image_rows(0, rows, 7));
      EXPECT_EQ(contents(second), image_rows(0, 3 * rows, 1000));
      const uint64_t peers = static_cast<uint64_t>(comm.world() - 1);
      EXPECT_EQ(comm.traffic().messages, shards.local().count > 0 ? 2 * peers : 0);
      EXPECT_EQ(comm.traffic().bytes, peers * static_cast<uint64_t>(4 * shards.local().count * kWidth) * 4);
    });
  }
}

TEST(RowShards, OneRankHoldsAllAndSendsNothing) {
  const Context ctx({}, 1);
  const RowShards shards(6);
  Tensor image({}, DType::i32, {12, kWidth});
  fill_image_rows(image, 0, 0);
  EXPECT_EQ(shards.local(2), (parallel::Range{0, 12}));
  EXPECT_EQ(shards.slab_rows(2), 12);
  EXPECT_EQ(shards.own_of_slab(image).bytes(), image.view().bytes());
  EXPECT_EQ(shards.own_of_whole(image).bytes(), image.view().bytes());
  shards.exchange_halo(ctx, image);
  shards.gather(ctx, {image});
  EXPECT_EQ(contents(image), image_rows(0, 12, 0));
}

TEST(RowShards, RefuseWhatCannotBeDealt) {
  EXPECT_THROW(RowShards(0), Error);
  SelfCommunicator self;
  EXPECT_THROW(RowShards(self, 0), Error);
  Tensor odd = unset_rows(7);
  EXPECT_THROW(RowShards(3).own_of_whole(odd), Error);  // 7 rows are no multiple of 3
}

TEST(RowShards, AFailedRankEndsTheOthers) {
  const auto run = [] {
    run_thread_ranks(3, [](Communicator& comm) {
      const Context ctx({}, 1);
      if (comm.rank() == 1) fail(ErrorKind::out_of_memory, "no room for a slab");
      const RowShards shards(comm, 9);
      Tensor slab = unset_rows(shards.slab_rows(1));
      shards.exchange_halo(ctx, slab);
    });
  };
  try {
    run();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
  }
}

}  // namespace
}  // namespace nostos::nn
