// Tests single decisions of the policy, its fairness, recorded arrivals and lost devices.
#include "scheduling/policy.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "scheduling/invariants.h"
#include "scheduling/simulator.h"

namespace nostos::scheduling {
namespace {

using Places = std::vector<int>;

constexpr Work kSquare{.rows = 4160, .steps = 8}, kTiny{.rows = 8, .steps = 8}, kLarge{.rows = 16448, .steps = 8};

State state_of(int places, std::vector<RunningLane> lanes, const std::vector<Work>& waiting, Demand demand = {}) {
  State state{.healthy = std::vector<bool>(static_cast<size_t>(places), true),
              .lanes = std::move(lanes),
              .waiting = {},
              .demand = demand};
  for (size_t i = 0; i < waiting.size(); ++i) state.waiting.push_back({std::to_string(i), waiting[i], 0, 1});
  return state;
}

Decision decided(const State& state, Policy policy = Policy::automatic) {
  const CostModel costs;
  const Decision decision = decide(state, costs, policy);
  expect_keeps_promises(state, decision, costs);
  return decision;
}

TEST(Decide, AJobAloneGetsAllPlaces) {
  const Decision decision = decided(state_of(4, {}, {kSquare}));
  ASSERT_EQ(decision.starts.size(), 1U);
  EXPECT_EQ(decision.starts[0].places, (Places{0, 1, 2, 3}));
}

TEST(Decide, AsManyJobsAsPlacesGetOneEachUnderThroughput) {
  const Decision decision = decided(state_of(2, {}, {kSquare, kSquare}), Policy::throughput);
  ASSERT_EQ(decision.starts.size(), 2U);
  EXPECT_EQ(decision.starts[0].places, Places{0});
  EXPECT_EQ(decision.starts[1].places, Places{1});
}

// Two jobs after one another on two GPUs end at 0.42 and 0.84 s, side by side both at 0.75 s.
TEST(Decide, TwoJobsFollowOneAnotherWhereNothingElseComes) {
  const Decision decision = decided(state_of(2, {}, {kSquare, kSquare}));
  ASSERT_EQ(decision.starts.size(), 1U);
  EXPECT_EQ(decision.starts[0].places, (Places{0, 1}));
}

TEST(Decide, UnderLoadTheyAreDrawnSideBySide) {
  const State busy = state_of(2, {}, {kSquare, kSquare}, {.jobs_per_ms = 0.0024, .load = 0.9});
  EXPECT_EQ(decided(busy).starts.size(), 2U);
  EXPECT_EQ(decided(busy, Policy::latency).starts.size(), 1U);
}

TEST(Decide, ASmallJobDoesNotWaitForALargeOne) {
  const Decision decision = decided(state_of(2, {{{0, 1}, kLarge, 7}}, {kSquare}));
  EXPECT_EQ(decision.lanes[0], Places{0});
}

TEST(Decide, WhatALaneLeavesGoesToTheOther) {
  EXPECT_EQ(decided(state_of(2, {{{1}, kSquare, 5}}, {})).lanes[0], (Places{0, 1}));
}

TEST(Decide, TheLastStepIsNotWorthAChange) {
  const Work short_steps{.rows = 1088, .steps = 8};
  EXPECT_EQ(decided(state_of(2, {{{1}, short_steps, 1}}, {})).lanes[0], Places{1});
}

TEST(Decide, SmallPicturesLeavePlacesThatDoNotHelp) {
  const Decision decision = decided(state_of(8, {}, {kTiny}));
  ASSERT_EQ(decision.starts.size(), 1U);
  EXPECT_EQ(decision.starts[0].places, Places{0});
}

TEST(Decide, JobsOfAGroupJoinWhereMoreWaitThanLanesBegin) {
  State state = state_of(2, {}, {kTiny, kTiny, kTiny, kTiny, kTiny});
  for (WaitingJob& job : state.waiting) job.together = 4;
  state.waiting[1].group = 1;
  const Decision decision = decided(state, Policy::throughput);
  ASSERT_EQ(decision.starts.size(), 2U);
  EXPECT_EQ(decision.starts[0].jobs, (std::vector<size_t>{0, 2, 3, 4}));
  EXPECT_EQ(decision.starts[1].jobs, std::vector<size_t>{1});
}

TEST(Decide, LostPlacesAreLeftAlone) {
  State state = state_of(2, {}, {kSquare});
  state.healthy[0] = false;
  EXPECT_EQ(decided(state).starts[0].places, Places{1});
  state.healthy[1] = false;
  EXPECT_TRUE(decided(state).starts.empty());
}

TEST(Decide, PoliciesHaveNames) {
  EXPECT_EQ(parse_policy("auto"), Policy::automatic);
  EXPECT_EQ(parse_policy("latency"), Policy::latency);
  EXPECT_EQ(parse_policy("throughput"), Policy::throughput);
  EXPECT_THROW(parse_policy("fast"), Error);
}

TEST(Demand, IsWhatCameLately) {
  DemandMeter meter;
  EXPECT_EQ(meter.at(0, 2).load, 0);
  double now = 0;
  for (int i = 0; i < 500; ++i) meter.arrived(now += 500, 800, 2);
  EXPECT_NEAR(meter.at(now, 2).load, 0.8, 0.04);
  EXPECT_NEAR(meter.at(now, 2).jobs_per_ms, 1 / 500.0, 1e-4);
  EXPECT_LT(meter.at(now + 60 * 60 * 1000, 2).load, 1e-6);
}

Simulation server(int places, Policy policy = Policy::automatic) {
  return {.places = places,
          .decide = [policy](const State& state, const CostModel& costs) { return decide(state, costs, policy); }};
}

TEST(Fairness, OneClientsHundredJobsDoNotKeepAnotherWaiting) {
  for (const Policy policy : {Policy::latency, Policy::throughput, Policy::automatic}) {
    std::vector<Arrival> arrivals(100, {.at_ms = 0, .client = "many", .work = kSquare});
    arrivals.push_back({.at_ms = 1000, .client = "one", .work = kSquare});
    const Outcome outcome = simulate(server(2, policy), arrivals);
    // It begins when one of the drawings of that moment ends, and one more of the other client's may go first.
    EXPECT_LT(outcome.begun_ms.back() - 1000, 2 * CostModel().total_ms(kSquare, 1));
  }
}

TEST(Fairness, JobsOfOneClientBeginInTheirOrder) {
  const std::vector<Arrival> arrivals = poisson_arrivals(2000, 0.95, 4, {kSquare, kLarge, kTiny}, 11);
  const Outcome outcome = simulate(server(4), arrivals);
  for (const char client : {'a', 'b', 'c', 'd'}) {
    double last = 0;
    for (size_t i = 0; i < arrivals.size(); ++i) {
      if (arrivals[i].client[0] != client) continue;
      EXPECT_GE(outcome.begun_ms[i], last);
      last = outcome.begun_ms[i];
    }
  }
}

// A morning of a studio's server: single pictures, bursts of variations, one large print.
std::vector<Arrival> recorded() {
  std::vector<Arrival> arrivals;
  for (const double at : {0.0, 2400.0, 2500.0, 9000.0, 9010.0, 9020.0, 9030.0, 9040.0, 9050.0, 15000.0})
    arrivals.push_back({at, "studio", kSquare});
  arrivals.push_back({15100, "print", {.rows = 16448, .passes = 2, .steps = 30}});
  for (const double at : {15400.0, 16000.0, 30000.0, 30700.0, 31400.0, 32100.0})
    arrivals.push_back({at, "page", kSquare});
  return arrivals;
}

TEST(Recorded, SingleJobsTakeAllPlacesAndBurstsShareThem) {
  const std::vector<Arrival> arrivals = recorded();
  const CostModel costs;
  const Outcome outcome = simulate(server(2), arrivals);
  EXPECT_NEAR(outcome.latency_ms[0], costs.total_ms(kSquare, 2), 1e-6);
  // Behind a print of half a minute, a picture waits for a step at most, and then has a place of its own.
  const double step = costs.step_ms(arrivals[10].work, 2);
  EXPECT_LT(outcome.latency_ms[11], step + costs.total_ms(kSquare, 1));
  EXPECT_EQ(outcome.lanes, static_cast<int>(arrivals.size()));
}

TEST(Recorded, SameArrivalsHaveTheSameDecisions) {
  const std::vector<Arrival> arrivals = poisson_arrivals(500, 0.8, 4, {kSquare, kLarge}, 5);
  Simulation simulation = server(4);
  simulation.noise = 0.05;
  simulation.learns = true;
  EXPECT_EQ(simulate(simulation, arrivals).latency_ms, simulate(simulation, arrivals).latency_ms);
}

TEST(Loss, JobsOfALostPlaceAreDrawnByTheOthers) {
  const std::vector<Arrival> arrivals = poisson_arrivals(300, 0.3, 4, {kSquare, kLarge}, 3);
  Simulation simulation = server(4);
  simulation.losses = {{arrivals[50].at_ms + 1, 0}, {arrivals[51].at_ms + 1, 2}, {arrivals[120].at_ms + 1, 3}};
  const Outcome outcome = simulate(simulation, arrivals);
  EXPECT_TRUE(std::ranges::all_of(outcome.latency_ms, [](double ms) { return ms > 0; }));
}

}  // namespace
}  // namespace nostos::scheduling
