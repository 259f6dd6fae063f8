// Tests the drawing of a shard plan: every token in its rank's colour, and ranks that can be told apart.
#include "apps/cli/plan_drawing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace nostos::cli {
namespace {

using namespace nostos::parallel;

Colour pixel(const Image& image, int64_t x, int64_t y) {
  const uint8_t* at = image.rgb.data() + 3 * (y * image.width + x);
  return {at[0], at[1], at[2]};
}

TEST(PlanDrawing, NeighboursDifferAndStandOutFromBlackText) {
  const auto distance = [](const Colour& a, const Colour& b) {
    int sum = 0;
    for (size_t part = 0; part < 3; ++part) sum += std::abs(a[part] - b[part]);
    return sum;
  };
  for (int64_t rank = 0; rank < 40; ++rank) {
    for (int64_t next = rank + 1; next <= rank + 3; ++next)
      EXPECT_GT(distance(rank_colour(rank), rank_colour(next)), 60) << rank << " and " << next;
    EXPECT_GE(std::ranges::max(rank_colour(rank)), 250) << rank;
  }
}

TEST(PlanDrawing, PaintsEachTokenInItsRanksColour) {
  for (const PlanKind kind : {PlanKind::token, PlanKind::axis}) {
    for (const Grid& grid : {Grid{45, 80}, Grid{80, 45}, Grid{1, 64}, Grid{64, 1}, Grid{1, 1}, Grid{512, 300}}) {
      for (const int64_t ranks : {1, 2, 7, 30}) {
        SCOPED_TRACE(testing::Message() << name(kind) << " " << grid.height << "x" << grid.width << " on " << ranks);
        const ShardPlan plan = make_plan({.grid = grid, .ranks = ranks, .kind = kind, .heads = 6, .pad_multiple = 32});
        const PlanDrawing drawing = draw_plan(plan, "title");
        int64_t wrong = 0, hidden = 0;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          for (const Range& run : native_runs(plan, rank)) {
            for (int64_t token = run.begin; token < std::min(run.end(), grid.tokens()); ++token) {
              // The upper left corner of a square is free of lines, though a number may hide it.
              const Colour colour = pixel(drawing.image, drawing.left + token % grid.width * drawing.cell,
                                          drawing.top + token / grid.width * drawing.cell);
              const bool black = colour == Colour{};
              hidden += black;
              wrong += !black && colour != rank_colour(rank);
            }
          }
        }
        EXPECT_EQ(wrong, 0);
        EXPECT_LE(hidden * 10, grid.tokens());
      }
    }
  }
}

TEST(PlanDrawing, EqualPlansGiveEqualPixels) {
  const ShardPlan plan = make_plan({.grid = {13, 21}, .ranks = 3, .heads = 6, .pad_multiple = 32});
  EXPECT_EQ(draw_plan(plan, "a").image, draw_plan(plan, "a").image);
  EXPECT_NE(draw_plan(plan, "a").image, draw_plan(plan, "b").image);
}

}  // namespace
}  // namespace nostos::cli
