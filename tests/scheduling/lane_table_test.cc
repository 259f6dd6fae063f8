// Tests the table of lanes: whose a place is while it changes hands.
#include "scheduling/lane_table.h"

#include <gtest/gtest.h>

namespace nostos::scheduling {
namespace {

using Places = std::vector<int>;

constexpr Work kSquare{.rows = 4160, .steps = 8};

LaneTable table_of(int places, Policy policy = Policy::throughput) {
  return {places, [policy](const State& state, const CostModel& costs) { return decide(state, costs, policy); }};
}

WaitingJob job(const char* id) { return {.id = id, .work = kSquare}; }

TEST(LaneTable, APlaceIsFreeOnceItsLaneHasLeftIt) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> first{job("a")}, second{job("b")};
  const std::vector<BegunLane> begun = table.begin(first, 0);
  ASSERT_EQ(begun.size(), 1U);
  EXPECT_EQ(begun[0].places, (Places{0, 1}));
  EXPECT_TRUE(table.begin(second, 1).empty());
  EXPECT_EQ(table.next(begun[0].id, 7, second, 2), Places{0});
  EXPECT_TRUE(table.begin(second, 3).empty());
  EXPECT_EQ(table.next(begun[0].id, 7, {}, 3), Places{0}) << "a place that is being left comes back";
  table.has_left(begun[0].id);
  const std::vector<BegunLane> other = table.begin(second, 4);
  ASSERT_EQ(other.size(), 1U);
  EXPECT_EQ(other[0].places, Places{1});
}

TEST(LaneTable, WhatAnEndedLaneHadGoesToTheOther) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> both{job("a"), job("b")};
  const std::vector<BegunLane> begun = table.begin(both, 0);
  ASSERT_EQ(begun.size(), 2U);
  EXPECT_EQ(table.next(begun[1].id, 6, {}, 1), Places{1});
  table.end(begun[0].id);
  EXPECT_EQ(table.next(begun[1].id, 6, {}, 2), (Places{0, 1}));
}

TEST(LaneTable, ALaneThatDecodesKeepsItsPlaces) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> one{job("a")};
  const std::vector<BegunLane> begun = table.begin(one, 0);
  table.stepped(begun[0].id, 0);
  EXPECT_EQ(table.next(begun[0].id, 0, one, 1), (Places{0, 1}));
}

TEST(LaneTable, LostPlacesAreNotDealtAgain) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> one{job("a")};
  const std::vector<BegunLane> begun = table.begin(one, 0);
  table.lose(0);
  table.end(begun[0].id);
  EXPECT_EQ(table.healthy(), 1);
  const std::vector<BegunLane> again = table.begin(one, 1);
  ASSERT_EQ(again.size(), 1U);
  EXPECT_EQ(again[0].places, Places{1});
}

}  // namespace
}  // namespace nostos::scheduling
