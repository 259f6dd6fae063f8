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

TEST(TransferLine, ShowsBytesRateAndTimeLeft) {
  EXPECT_EQ(transfer_line(3'000'000'000, 12'000'000'000, 100e6, 79),
            " 3.0/12.0 GB [#######.......................] 100.0 MB/s  ETA 1:30");
  EXPECT_EQ(transfer_line(0, 900'000, 0, 79), " 0.0/0.9 MB [..............................]   0.0 MB/s  ETA ?");
  EXPECT_EQ(transfer_line(0, 0, 0, 79), " 0.0/0.0 MB [##############################]   0.0 MB/s  ETA ?");
}

TEST(TransferLine, FitsTheColumns) {
  for (int64_t columns = 0; columns < 100; ++columns)
    for (const uint64_t done : {uint64_t{1}, uint64_t{1} << 40, uint64_t{1} << 50})
      EXPECT_LE(std::ssize(transfer_line(done, uint64_t{1} << 50, 1e3, columns)), columns) << done;
}

}  // namespace
}  // namespace nostos::cli
