// Implements what every decision must keep.
#include "scheduling/invariants.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace nostos::scheduling {
namespace {

std::set<int> free_places(const State& state) {
  std::set<int> free;
  for (size_t place = 0; place < state.healthy.size(); ++place)
    if (state.healthy[place]) free.insert(static_cast<int>(place));
  for (const RunningLane& lane : state.lanes)
    for (const int place : lane.places) free.erase(place);
  return free;
}

/// \return the places that are used out of `free`. Each is used once.
std::set<int> used_places(const State& state, const Decision& decision, const std::set<int>& free) {
  std::set<int> used;
  const auto use = [&](int place) {
    EXPECT_TRUE(free.contains(place)) << "place " << place << " is not free";
    EXPECT_TRUE(used.insert(place).second) << "place " << place << " is dealt twice";
  };
  for (size_t i = 0; i < state.lanes.size(); ++i) {
    const std::vector<int>& before = state.lanes[i].places;
    for (const int place : decision.lanes[i])
      if (!std::ranges::binary_search(before, place)) use(place);
  }
  for (const NewLane& lane : decision.starts)
    for (const int place : lane.places) use(place);
  return used;
}

void expect_jobs_in_turn(const State& state, const Decision& decision) {
  std::set<size_t> begun;
  for (const NewLane& lane : decision.starts) {
    ASSERT_FALSE(lane.jobs.empty());
    size_t turn = 0;
    while (begun.contains(turn)) ++turn;
    EXPECT_EQ(lane.jobs.front(), turn) << "jobs begin in the order of turns";
    int64_t images = 0;
    for (const size_t job : lane.jobs) {
      EXPECT_TRUE(begun.insert(job).second) << "job " << job << " begins twice";
      images += state.waiting[job].work.images;
      EXPECT_EQ(state.waiting[job].group, state.waiting[turn].group);
    }
    if (lane.jobs.size() > 1) {
      EXPECT_LE(images, state.waiting[turn].together);
    }
  }
}

}  // namespace

void expect_keeps_promises(const State& state, const Decision& decision, const CostModel& costs) {
  ASSERT_EQ(decision.lanes.size(), state.lanes.size());
  const std::set<int> free = free_places(state);
  const std::set<int> used = used_places(state, decision, free);
  expect_jobs_in_turn(state, decision);
  size_t begun = 0;
  for (const NewLane& lane : decision.starts) begun += lane.jobs.size();
  const bool waits = begun < state.waiting.size();
  if (waits) {
    EXPECT_EQ(used.size(), free.size()) << "a place is free while a job waits";
  }
  for (size_t i = 0; i < state.lanes.size(); ++i) {
    const RunningLane& lane = state.lanes[i];
    const std::vector<int>& after = decision.lanes[i];
    EXPECT_FALSE(after.empty());
    EXPECT_TRUE(std::ranges::is_sorted(after));
    if (lane.steps_left == 0) {
      EXPECT_EQ(after, lane.places) << "a lane changes while it decodes";
    }
    if (after.size() < lane.places.size()) {
      EXPECT_TRUE(waits) << "a lane gives places away for nothing";
    }
    if (after.size() <= lane.places.size()) continue;
    EXPECT_FALSE(waits) << "a lane grows while a job waits";
    const double before_ms = costs.step_ms(lane.work, static_cast<int>(lane.places.size()));
    const double saved = before_ms - costs.step_ms(lane.work, static_cast<int>(after.size()));
    EXPECT_GT(saved * static_cast<double>(lane.steps_left), 2 * kRedealMs) << "a change that does not pay";
  }
}

State carried_out(const State& state, const Decision& decision) {
  State after = state;
  std::set<size_t> begun;
  for (size_t i = 0; i < state.lanes.size(); ++i) after.lanes[i].places = decision.lanes[i];
  for (const NewLane& lane : decision.starts) {
    Work work = state.waiting[lane.jobs.front()].work;
    work.passes = work.images = 0;
    for (const size_t job : lane.jobs) {
      begun.insert(job);
      work.passes += state.waiting[job].work.passes;
      work.images += state.waiting[job].work.images;
    }
    after.lanes.push_back({lane.places, work, work.steps});
  }
  after.waiting.clear();
  for (size_t job = 0; job < state.waiting.size(); ++job)
    if (!begun.contains(job)) after.waiting.push_back(state.waiting[job]);
  return after;
}

}  // namespace nostos::scheduling
