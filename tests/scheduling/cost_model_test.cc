// Tests the expected times: the proportions before measurements, what measurements change, and what hiccups do not.
#include "scheduling/cost_model.h"

#include <gtest/gtest.h>

#include <random>

namespace nostos::scheduling {
namespace {

constexpr Work kSquare{.rows = 4160, .steps = 8}, kSmall{.rows = 320, .steps = 8}, kLarge{.rows = 16448, .steps = 8};

// docs/performance.md and the design's table of two GPUs: prompt to pixels in 8 steps.
TEST(CostModel, BeginsWithWhatTwoH200sTake) {
  struct Measured {
    int64_t rows;
    double one_ms, two_ms;
  };
  const CostModel costs;
  for (const Measured& measured :
       {Measured{320, 78.5, 57.5}, {1088, 192, 122}, {2368, 425, 247}, {4160, 755, 420}, {16448, 4125, 2218}}) {
    const Work work{.rows = measured.rows, .steps = 8};
    EXPECT_NEAR(costs.total_ms(work, 1), measured.one_ms, 0.05 * measured.one_ms) << measured.rows;
    EXPECT_NEAR(costs.total_ms(work, 2), measured.two_ms, 0.05 * measured.two_ms) << measured.rows;
  }
}

TEST(CostModel, PassesCostAlikeAndBatchesShareWhatAStepCosts) {
  const CostModel costs;
  const Work guided{.rows = 4160, .passes = 2};
  EXPECT_NEAR(costs.step_ms(guided, 1) / costs.step_ms(kSquare, 1), 1.97, 0.02);
}

TEST(CostModel, OneMeasurementTellsTheSpeedOfAllDegrees) {
  const CostModel before;
  CostModel costs;
  costs.observe_step(kSquare, 1, 40 * before.step_ms(kSquare, 1));
  for (const int degree : {1, 2, 8}) {
    EXPECT_NEAR(costs.step_ms(kLarge, degree), 40 * before.step_ms(kLarge, degree), 1e-6);
    EXPECT_NEAR(costs.vae_ms(kLarge, degree), 40 * before.vae_ms(kLarge, degree), 1e-6);
  }
  EXPECT_NEAR(costs.text_ms(kSmall), 40 * before.text_ms(kSmall), 1e-6);
}

TEST(CostModel, FindsTheProportionsOfAnotherMachine) {
  const auto truth = [](double rows) { return 3 + 0.05 * rows + 4e-7 * rows * rows; };
  CostModel costs;
  std::mt19937 random(3);
  std::normal_distribution<double> noise(1, 0.03);
  for (int i = 0; i < 300; ++i)
    for (const int64_t rows : {320, 2112, 4160, 16448})
      costs.observe_step({.rows = rows}, 1, truth(static_cast<double>(rows)) * noise(random));
  for (const int64_t rows : {320, 1088, 4160, 9280, 16448}) {
    const double right = truth(static_cast<double>(rows));
    EXPECT_NEAR(costs.step_ms({.rows = rows}, 1), right, 0.08 * right) << rows;
  }
}

TEST(CostModel, AHiccupDoesLittleAndALastingChangeWins) {
  CostModel costs;
  for (int i = 0; i < 50; ++i) costs.observe_step(kSquare, 2, 50);
  costs.observe_step(kSquare, 2, 5000);
  EXPECT_LT(costs.step_ms(kSquare, 2), 58);
  for (int i = 0; i < 40; ++i) costs.observe_step(kSquare, 2, 50);
  EXPECT_NEAR(costs.step_ms(kSquare, 2), 50, 2);
  for (int i = 0; i < 60; ++i) costs.observe_step(kSquare, 2, 100);
  EXPECT_NEAR(costs.step_ms(kSquare, 2), 100, 5);
}

TEST(CostModel, TimesStayPositiveWhateverIsMeasured) {
  CostModel costs;
  std::mt19937 random(5);
  std::lognormal_distribution<double> any(0, 5);
  for (int i = 0; i < 3000; ++i) {
    const Work work{.rows = 1 + static_cast<int64_t>(random() % 20000),
                    .passes = 1 + static_cast<int64_t>(random() % 8)};
    const int degree = 1 + static_cast<int>(random() % 8);
    costs.observe_step(work, degree, any(random));
    costs.observe_text(work, any(random));
    costs.observe_decode(work, degree, any(random));
    costs.observe_step(work, degree, i % 3 == 0 ? 0.0 : -1.0);
    ASSERT_GT(costs.total_ms(work, degree), 0);
    ASSERT_LT(costs.total_ms(work, degree), 1e12);
  }
}

TEST(CostModel, SmallPicturesAreNotSharedByMany) {
  const CostModel costs;
  EXPECT_EQ(costs.fastest_degree({.rows = 8, .steps = 8}, 8), 1);
  EXPECT_EQ(costs.fastest_degree(kSquare, 1), 1);
  EXPECT_EQ(costs.fastest_degree(kLarge, 8), 8);
}

}  // namespace
}  // namespace nostos::scheduling
