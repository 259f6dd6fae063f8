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
  const auto begun = table.begin(first, 0);
  ASSERT_TRUE(begun);
  EXPECT_EQ(begun->places, (Places{0, 1}));
  EXPECT_FALSE(table.begin(second, 1));
  EXPECT_EQ(table.next(begun->id, 7, second, 2), Places{0});
  EXPECT_FALSE(table.begin(second, 3));
  EXPECT_EQ(table.next(begun->id, 7, {}, 3), Places{0}) << "a place that is being left comes back";
  table.has_left(begun->id);
  const auto other = table.begin(second, 4);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->places, Places{1});
}

TEST(LaneTable, WhatAnEndedLaneHadGoesToTheOther) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> both{job("a"), job("b")};
  const auto first = table.begin(both, 0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->places, Places{0});
  const auto second = table.begin(std::span(both).subspan(1), 0);
  ASSERT_TRUE(second);
  EXPECT_EQ(table.next(second->id, 6, {}, 1), Places{1});
  table.end(first->id);
  EXPECT_EQ(table.next(second->id, 6, {}, 2), (Places{0, 1}));
}

TEST(LaneTable, ALaneThatDecodesKeepsItsPlaces) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> one{job("a")};
  const auto begun = table.begin(one, 0);
  table.stepped(begun->id, 0);
  EXPECT_EQ(table.next(begun->id, 0, one, 1), (Places{0, 1}));
}

TEST(LaneTable, LostPlacesAreNotDealtAgain) {
  LaneTable table = table_of(2);
  const std::vector<WaitingJob> one{job("a")};
  const auto begun = table.begin(one, 0);
  table.lose(0);
  table.end(begun->id);
  EXPECT_EQ(table.healthy(), 1);
  const auto again = table.begin(one, 1);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->places, Places{1});
}

}  // namespace
}  // namespace nostos::scheduling
