// Tests the line that the progress bar draws.
#include "apps/cli/progress_display.h"

#include <gtest/gtest.h>

namespace nostos::cli {
namespace {

TEST(ProgressLine, ShowsStepRateAndTimeLeft) {
  EXPECT_EQ(progress_line(3, 9, 1230, 79), "  3/9 [##########....................]  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(1, 100, 61000, 79), "  1/100 [..............................] 61.00 s/it  ETA 100:39");
  EXPECT_EQ(progress_line(9, 9, 4, 79), "  9/9 [##############################]  0.00 s/it  ETA 0:00");
}

TEST(ProgressLine, FitsTheColumns) {
  EXPECT_EQ(progress_line(3, 9, 1230, 59), "  3/9 [##########....................]  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(3, 9, 1230, 58), "  3/9 [#########....................]  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(3, 9, 1230, 34), "  3/9 [#....]  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(3, 9, 1230, 33), "  3/9  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(3, 9, 1230, 19), "  3/9  1.23 s/it  E");
  EXPECT_EQ(progress_line(3, 9, 1230, 1), " ");
  EXPECT_EQ(progress_line(3, 9, 1230, 0), "");
  for (int64_t columns = 0; columns < 100; ++columns)
    for (const int64_t step : {1, 500, 1000})
      EXPECT_LE(std::ssize(progress_line(step, 1000, 987654, columns)), columns) << step;
}

}  // namespace
}  // namespace nostos::cli
