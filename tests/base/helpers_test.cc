// Tests the small helpers: rounding, and the hash.
#include <gtest/gtest.h>

#include "base/hash.h"
#include "base/rounding.h"

namespace nostos {
namespace {

TEST(Rounding, CoversEveryCount) {
  for (int64_t size = 1; size <= 9; ++size) {
    for (int64_t count = 0; count <= 40; ++count) {
      const int64_t parts = divide_up(count, size), rounded = round_up(count, size);
      EXPECT_TRUE(parts * size >= count && (parts - 1) * size < count) << count << " by " << size;
      EXPECT_EQ(rounded, parts * size);
    }
  }
}

// Source: the test vectors of draft-eastlake-fnv.
TEST(Hash, IsFnv1a) {
  EXPECT_EQ(fnv1a(std::string_view()), 0xcbf29ce484222325u);
  EXPECT_EQ(fnv1a("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(fnv1a("foobar"), 0x85944171f73967e8u);
}

}  // namespace
}  // namespace nostos
