// Implements the table of lanes.
#include "scheduling/lane_table.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace nostos::scheduling {

LaneTable::LaneTable(int places, Rule rule, CostModel costs)
    : rule_(std::move(rule)), costs_(std::move(costs)), healthy_(static_cast<size_t>(places), true) {}

int LaneTable::healthy() const { return static_cast<int>(std::ranges::count(healthy_, true)); }

int LaneTable::busy() const {
  size_t places = 0;
  for (const auto& [id, lane] : lanes_) places += lane.drawn.places.size() + lane.leaving.size();
  return static_cast<int>(places);
}

void LaneTable::came(const Work& work, double now_ms) { demand_.arrived(now_ms, costs_.total_ms(work, 1), healthy()); }

State LaneTable::state(std::span<const WaitingJob> waiting, double now_ms) const {
  State state{.healthy = healthy_,
              .lanes = {},
              .waiting = {waiting.begin(), waiting.end()},
              .demand = demand_.at(now_ms, healthy())};
  for (const auto& [id, lane] : lanes_) {
    state.lanes.push_back(lane.drawn);
    // Nobody has these for the moment.
    for (const int place : lane.leaving) state.healthy[static_cast<size_t>(place)] = false;
  }
  return state;
}

std::optional<BegunLane> LaneTable::begin(std::span<const WaitingJob> waiting, double now_ms) {
  std::vector<NewLane> starts = rule_(state(waiting, now_ms), costs_).starts;
  if (starts.empty()) return std::nullopt;
  NewLane& lane = starts.front();
  Work work = waiting[lane.jobs.front()].work;
  work.passes = work.images = 0;
  for (const size_t job : lane.jobs) {
    work.passes += waiting[job].work.passes;
    work.images += waiting[job].work.images;
  }
  lanes_[++last_id_] = {.drawn = {lane.places, work, work.steps}, .leaving = {}};
  return BegunLane{last_id_, work, std::move(lane.places), std::move(lane.jobs)};
}

std::vector<int> LaneTable::next(int64_t id, int64_t steps_left, std::span<const WaitingJob> waiting, double now_ms) {
  Lane& lane = lanes_.at(id);
  lane.drawn.steps_left = steps_left;
  if (!lane.leaving.empty()) return lane.drawn.places;
  const auto index = static_cast<size_t>(std::distance(lanes_.begin(), lanes_.find(id)));
  std::vector<int> places = rule_(state(waiting, now_ms), costs_).lanes[index];
  std::ranges::set_difference(lane.drawn.places, places, std::back_inserter(lane.leaving));
  lane.drawn.places = places;
  return places;
}

void LaneTable::has_left(int64_t id) { lanes_.at(id).leaving.clear(); }

}  // namespace nostos::scheduling
