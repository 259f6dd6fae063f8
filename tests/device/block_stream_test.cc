// Tests that blocks are in their places when they are visited, in any order, on the CPU, whose copies are done at
// once; order_test.cc has those of a GPU.
#include "device/block_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

constexpr size_t kSlotBytes = 3 * BlockStream::kAlignment;

/// A stream of blocks of two pieces, whose bytes are the block's number, and one more in the second.
class BlockStreamTest : public testing::Test {
 protected:
  BlockStreamTest() : stream_(Device{}, kSlotBytes) {
    for (size_t block = 0; block < 5; ++block) {
      EXPECT_EQ(stream_.add_block(), block);
      const std::byte* first = add(300, static_cast<int>(10 * block));
      const std::byte* second = add(1, static_cast<int>(10 * block + 1));
      EXPECT_EQ(second - first, 512);
      places_.push_back(first);
    }
  }

  const std::byte* add(size_t bytes, int value) {
    std::vector<std::byte> from(bytes);
    std::memset(from.data(), value, bytes);
    return stream_.add(ctx_, from.data(), bytes);
  }

  void visit(size_t block) {
    stream_.begin_visit(ctx_, block);
    const std::byte first{static_cast<unsigned char>(10 * block)}, second{static_cast<unsigned char>(10 * block + 1)};
    EXPECT_TRUE(std::all_of(places_[block], places_[block] + 300, [&](std::byte b) { return b == first; })) << block;
    EXPECT_EQ(places_[block][512], second) << block;
    stream_.end_visit(ctx_, block);
  }

  Context ctx_{{}, 1};
  BlockStream stream_;
  std::vector<const std::byte*> places_;
};

TEST_F(BlockStreamTest, EveryVisitFindsItsBlock) {
  for (const size_t block : {0, 1, 2, 3, 4, 0, 1, 2, 2, 4, 3, 0, 4, 4, 2}) visit(block);
  EXPECT_EQ(stream_.device_bytes(), 2 * kSlotBytes);
  EXPECT_EQ(stream_.host_bytes(), 5 * kSlotBytes);
}

TEST_F(BlockStreamTest, NeighboursHaveSlotsOfTheirOwn) {
  EXPECT_EQ(places_[0], places_[2]);
  EXPECT_EQ(places_[1], places_[3]);
  EXPECT_NE(places_[0], places_[1]);
}

TEST_F(BlockStreamTest, WrongUseIsFound) {
  EXPECT_THROW(stream_.begin_visit(ctx_, 5), Error);
  EXPECT_THROW(stream_.end_visit(ctx_, 3), Error);
  EXPECT_THROW(add(300, 1), Error);
  EXPECT_THROW(BlockStream(Device{}, kSlotBytes).add(ctx_, nullptr, 0), Error);
}

}  // namespace
}  // namespace nostos
