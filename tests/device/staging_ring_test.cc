// Tests the staging ring: pieces never overlap, wrap around, and come back in order.
#include "device/staging_ring.h"

#include <gtest/gtest.h>

#include <deque>

#include "base/error.h"

namespace nostos {
namespace {

TEST(StagingRing, PlacesPiecesInOrderAndAligned) {
  StagingRing ring(1024);
  EXPECT_EQ(ring.take(1), 0u);
  EXPECT_EQ(ring.take(256), 256u);
  EXPECT_EQ(ring.take(512), 512u);
  EXPECT_EQ(ring.take(1), std::nullopt);
  ring.give_back_oldest();
  EXPECT_EQ(ring.take(257), std::nullopt);  // the first 256 bytes alone are free
  EXPECT_EQ(ring.take(256), 0u);
  EXPECT_EQ(ring.take(1), std::nullopt);
  ring.give_back_oldest();
  EXPECT_EQ(ring.take(200), 256u);
}

TEST(StagingRing, TakesAllOfItselfOnceEmpty) {
  StagingRing ring(1000);
  EXPECT_EQ(ring.take(600), 0u);
  EXPECT_EQ(ring.take(600), std::nullopt);
  ring.give_back_oldest();
  EXPECT_EQ(ring.take(1000), 0u);
  EXPECT_EQ(ring.pieces(), 1u);
}

TEST(StagingRing, RefusesWhatCannotBe) {
  StagingRing ring(1000);
  EXPECT_THROW(ring.take(0), Error);
  EXPECT_THROW(ring.take(1001), Error);
  EXPECT_THROW(ring.give_back_oldest(), Error);
}

// Pieces of many sizes, taken as long as they fit: none overlaps one still in use, and an empty ring refuses none.
TEST(StagingRing, PiecesInUseNeverOverlap) {
  struct Piece {
    size_t begin, end;
  };
  for (const size_t capacity : {size_t{1024}, size_t{1000}, size_t{5000}, size_t{65536}}) {
    StagingRing ring(capacity);
    std::deque<Piece> in_use;
    uint32_t state = 1;
    for (int i = 0; i < 20000; ++i) {
      state = state * 1664525u + 1013904223u;
      const size_t bytes = 1 + (state >> 8) % capacity;
      std::optional<size_t> begin;
      while (!(begin = ring.take(bytes))) {
        ASSERT_FALSE(in_use.empty());
        ring.give_back_oldest();
        in_use.pop_front();
      }
      ASSERT_LE(*begin + bytes, capacity);
      for (const Piece& other : in_use) ASSERT_TRUE(*begin + bytes <= other.begin || other.end <= *begin);
      in_use.push_back({*begin, *begin + bytes});
      ASSERT_EQ(ring.pieces(), in_use.size());
    }
  }
}

}  // namespace
}  // namespace nostos
