// Tests the copy of scattered rows.
#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <array>

#include "base/error.h"
#include "ops/support.h"

namespace nostos {
namespace {

using ops::RowRun;

TEST(CopyRows, MovesRunsOfEveryOuterEntryAndNothingElse) {
  for (const int threads : {1, 2}) {
    Context ctx({}, threads);
    for (const Shape& inner : {Shape{1}, Shape{5}, Shape{3, 700}}) {
      Shape from_shape{4, 9}, to_shape{4, 7};
      for (int axis = 0; axis < inner.rank(); ++axis) {
        from_shape.push_back(inner[axis]);
        to_shape.push_back(inner[axis]);
      }
      const Tensor from = random_tensor(DType::bf16, from_shape, 1), before = random_tensor(DType::bf16, to_shape, 2);
      Guarded to(DType::bf16, to_shape);
      copy_bytes(before, to);
      const std::array runs{RowRun{7, 0, 2}, RowRun{0, 3, 1}, RowRun{2, 4, 0}, RowRun{3, 5, 2}};
      ops::copy_rows(ctx, from, to, runs);
      const int64_t n = inner.elements();
      const std::array<int64_t, 7> source{7, 8, -1, 0, -1, 3, 4};  // of each row; -1: untouched
      for (int64_t i = 0; i < to_shape.elements(); ++i) {
        const int64_t outer = i / (7 * n), row = i / n % 7, from_row = source[static_cast<size_t>(row)];
        const double expected = from_row < 0 ? value_at(before, i) : value_at(from, (outer * 9 + from_row) * n + i % n);
        ASSERT_EQ(value_at(to, i), expected) << i;
      }
      to.expect_guards_untouched();
    }
  }
}

// More entries than a GPU's grid has blocks along its second axis.
TEST(CopyRows, AnyNumberOfOuterEntries) {
  Context ctx({}, 1);
  constexpr int64_t kOuter = 70000;
  const Tensor from = random_tensor(DType::bf16, {kOuter, 2, 3}, 1);
  Tensor to = random_tensor(DType::bf16, {kOuter, 3, 3}, 2);
  ops::copy_rows(ctx, from, to, std::array{RowRun{0, 1, 2}});
  for (int64_t i = 0; i < kOuter * 6; ++i) ASSERT_EQ(value_at(to, i / 6 * 9 + 3 + i % 6), value_at(from, i)) << i;
}

TEST(CopyRows, OfNothingLeavesAllAsItWas) {
  Context ctx({}, 1);
  const Tensor before = random_tensor(DType::f32, {2, 3, 4}, 1), from = random_tensor(DType::f32, {2, 5, 4}, 2);
  const Tensor no_rows(Device{}, DType::f32, {2, 0, 4}), no_entries(Device{}, DType::f32, {0, 3, 4});
  Guarded to(DType::f32, {2, 3, 4}), of_no_entries(DType::f32, {0, 5, 4});
  copy_bytes(before, to);
  ops::copy_rows(ctx, from, to, {});
  ops::copy_rows(ctx, from, to, std::array{RowRun{5, 3, 0}, RowRun{0, 0, 0}});
  ops::copy_rows(ctx, no_rows, to, std::array{RowRun{0, 1, 0}});
  for (int64_t i = 0; i < 24; ++i) EXPECT_EQ(value_at(to, i), value_at(before, i)) << i;
  to.expect_guards_untouched();
  ops::copy_rows(ctx, no_entries, of_no_entries, std::array{RowRun{0, 2, 3}});
  of_no_entries.expect_guards_untouched();
}

TEST(CopyRows, RunsBeyondTheRowsAndUnlikeShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor from = random_tensor(DType::f32, {2, 3, 4}, 1), narrow = random_tensor(DType::f32, {2, 3, 5}, 1);
  Guarded to(DType::f32, {2, 6, 4});
  const auto copy = [&](ConstView source, RowRun run) { ops::copy_rows(ctx, source, to, std::array{run}); };
  EXPECT_NO_THROW(copy(from, {0, 3, 3}));
  EXPECT_THROW(copy(from, {0, 4, 3}), Error);
  EXPECT_THROW(copy(from, {1, 0, 3}), Error);
  EXPECT_THROW(copy(from, {0, -1, 1}), Error);
  EXPECT_THROW(copy(narrow, {0, 0, 1}), Error);
  EXPECT_THROW(copy(random_tensor(DType::bf16, {2, 3, 4}, 1), {0, 0, 1}), Error);
}

}  // namespace
}  // namespace nostos
