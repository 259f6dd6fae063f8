// Tests parallel loops: every part runs once, and what a body throws reaches the caller.
#include "ops/cpu/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

namespace nostos::cpu {
namespace {

TEST(ParallelLoops, RunEveryPartOnce) {
  const Context ctx({}, 4);
  for (const int64_t count : {0, 1, 3, 4, 1000}) {
    std::vector<std::atomic<int>> ranges(static_cast<size_t>(count)), tasks(static_cast<size_t>(count));
    parallel_ranges(ctx, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++ranges[static_cast<size_t>(i)];
    });
    parallel_tasks(ctx, count, [&](int64_t task) { ++tasks[static_cast<size_t>(task)]; });
    for (size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_EQ(ranges[i], 1) << i << " of " << count;
      EXPECT_EQ(tasks[i], 1) << i << " of " << count;
    }
  }
}

// An exception that leaves a parallel region ends the process.
TEST(ParallelLoops, ThrowWhatABodyThrows) {
  const Context ctx({}, 4);
  for (const int64_t bad : {0, 57, 99}) {
    const auto throws = [bad](int64_t i) {
      if (i == bad) throw std::runtime_error("out of luck");
    };
    EXPECT_THROW(parallel_tasks(ctx, 100, throws), std::runtime_error);
    EXPECT_THROW(parallel_ranges(ctx, 100, 1,
                                 [&](int64_t begin, int64_t end) {
                                   for (int64_t i = begin; i < end; ++i) throws(i);
                                 }),
                 std::runtime_error);
  }
}

TEST(ParallelLoops, BeginNoMoreTasksOnceOneHasThrown) {
  const Context ctx({}, 1);
  std::atomic<int> begun{0};
  const auto fail_at_once = [&](int64_t) {
    ++begun;
    throw std::runtime_error("out of luck");
  };
  EXPECT_THROW(parallel_tasks(ctx, 100, fail_at_once), std::runtime_error);
  EXPECT_EQ(begun, 1);
}

}  // namespace
}  // namespace nostos::cpu
