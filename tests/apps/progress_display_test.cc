// Tests the line that the progress bar draws.
#include "apps/cli/progress_display.h"

#include <gtest/gtest.h>

namespace nostos::cli {
namespace {

TEST(ProgressLine, ShowsStepRateAndTimeLeft) {
  EXPECT_EQ(progress_line(3, 9, 1230), "  3/9 [##########....................]  1.23 s/it  ETA 0:08");
  EXPECT_EQ(progress_line(1, 100, 61000), "  1/100 [..............................] 61.00 s/it  ETA 100:39");
  EXPECT_EQ(progress_line(9, 9, 4), "  9/9 [##############################]  0.00 s/it  ETA 0:00");
}

}  // namespace
}  // namespace nostos::cli
