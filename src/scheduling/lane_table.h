// Owns the lanes of a process as the policy sees them: who has which place, what came lately, what time things take.
// Whoever draws tells it what happens, and does what it says.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "scheduling/cost_model.h"
#include "scheduling/policy.h"

namespace nostos::scheduling {

/// A lane that is to be formed.
struct BegunLane {
  int64_t id = 0;
  Work work;                 ///< of its jobs together
  std::vector<int> places;   ///< ascending
  std::vector<size_t> jobs;  ///< of those that wait; the first's turn it is
};

/// One thread at a time. Times are of any clock that only goes on. Jobs that wait are given in the order of turns.
class LaneTable {
 public:
  using Rule = std::function<Decision(const State&, const CostModel&)>;

  /// \param costs what is known of times
  LaneTable(int places, Rule rule, CostModel costs = {});

  /// A job joins those that wait.
  void came(const Work& work, double now_ms);
  /// To be asked when a job came, places became free, or one was lost, and again after each lane that was formed, for
  /// its jobs wait no more. \return the lane to be formed now, which has its places from now on, or nothing
  std::optional<BegunLane> begin(std::span<const WaitingJob> waiting, double now_ms);
  /// To be asked between two steps of a lane. \return its places from the next step on. Those that it gives away are
  /// free once it has_left() them.
  std::vector<int> next(int64_t lane, int64_t steps_left, std::span<const WaitingJob> waiting, double now_ms);
  void has_left(int64_t lane);
  /// A lane has so many steps left; with none its places stay until it ends.
  void stepped(int64_t lane, int64_t steps_left) { lanes_.at(lane).drawn.steps_left = steps_left; }
  /// A lane has ended, in whatever way.
  void end(int64_t lane) { lanes_.erase(lane); }
  /// A place is gone for good. The lane that has it goes on until end().
  void lose(int place) { healthy_[static_cast<size_t>(place)] = false; }

  int places() const { return static_cast<int>(healthy_.size()); }
  int healthy() const;
  int count() const { return static_cast<int>(lanes_.size()); }  ///< of lanes
  int busy() const;                                              ///< places that lanes have
  CostModel& costs() { return costs_; }
  const CostModel& costs() const { return costs_; }

 private:
  struct Lane {
    RunningLane drawn;
    std::vector<int> leaving;  ///< places that it has given away, and still uses
  };
  State state(std::span<const WaitingJob> waiting, double now_ms) const;

  Rule rule_;
  CostModel costs_;
  DemandMeter demand_;
  std::vector<bool> healthy_;
  std::map<int64_t, Lane> lanes_;  ///< by their ids
  int64_t last_id_ = 0;
};

}  // namespace nostos::scheduling
