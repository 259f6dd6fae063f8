// Tests device memory: owners and the planned arena.
#include "device/arena.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace nostos {
namespace {

TEST(Buffer, IsAlignedAndMoves) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{9} << 20}) {
    Buffer buffer(Device{}, bytes);
    ASSERT_NE(buffer.data(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % Buffer::kAlignment, 0u);
    std::memset(buffer.data(), 7, bytes);
    const std::byte* at = buffer.data();
    Buffer moved = std::move(buffer);
    EXPECT_EQ(moved.data(), at);
    EXPECT_EQ(moved.size_bytes(), bytes);
    EXPECT_EQ(buffer.data(), nullptr);  // NOLINT(bugprone-use-after-move): the moved-from state is what is tested
  }
}

TEST(Buffer, EmptyHasNoMemory) { EXPECT_EQ(Buffer(Device{}, 0).data(), nullptr); }

TEST(Buffer, TooMuchIsOutOfMemoryNotACrash) {
  for (const size_t bytes : {SIZE_MAX, SIZE_MAX / 2}) {
    try {
      Buffer buffer(Device{}, bytes);
      FAIL() << "got " << bytes << " bytes";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::out_of_memory);
      EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos);
    }
  }
}

/// A plan with two phases that share memory.
size_t plan(Arena& arena, std::byte** last) {
  arena.take(100);
  const size_t mark = arena.used_bytes();
  arena.take(1000);
  arena.rewind(mark);
  *last = arena.take(10);
  return arena.peak_bytes();
}

TEST(Arena, MeasuresWhatItThenGives) {
  Arena measure{Device{}};
  std::byte* last = nullptr;
  const size_t bytes = plan(measure, &last);
  EXPECT_EQ(last, nullptr);
  EXPECT_EQ(bytes, 128u + 1024u);
  Arena arena(Device{}, bytes);
  EXPECT_EQ(plan(arena, &last), bytes);
  ASSERT_NE(last, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(last) % Buffer::kAlignment, 0u);
  EXPECT_THROW(arena.take(bytes), Error);
}

TEST(Arena, LaysOutMemoryOfSomebodyElse) {
  Buffer owner(Device{}, 256);
  for (int again = 0; again < 2; ++again) {
    Arena arena(Device{}, owner.data(), owner.size_bytes());
    EXPECT_EQ(arena.capacity_bytes(), 256u);
    EXPECT_EQ(arena.take(10), owner.data());
    EXPECT_EQ(arena.take(100), owner.data() + 64);
    EXPECT_THROW(arena.take(65), Error);
  }
  Arena empty(Device{}, nullptr, 0);
  EXPECT_THROW(empty.take(1), Error) << "it does not measure";
}

}  // namespace
}  // namespace nostos
