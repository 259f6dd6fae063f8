// Owns how jobs that wait look to the policy, and what it has decided: which places draw what.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/server/engine_calls.h"
#include "scheduling/lane_table.h"

namespace nostos::server {

class LiveJob;

/// One thread at a time. Jobs that wait are given in the order of their turns.
class JobDealer {
 public:
  using Jobs = std::span<const LiveJob* const>;

  /// \param engine must outlive it
  explicit JobDealer(const EngineCalls& engine);

  /// As LaneTable::begin() and next().
  std::optional<scheduling::BegunLane> begin(Jobs waiting);
  std::vector<int> next(int64_t lane, int64_t steps_left, Jobs waiting);
  /// The job has ended.
  void forget(const std::string& id) { known_.erase(id); }

  scheduling::LaneTable& lanes() { return lanes_; }
  const scheduling::LaneTable& lanes() const { return lanes_; }

 private:
  struct Known {
    const LiveJob* job;
    scheduling::WaitingJob rated;
  };

  std::vector<scheduling::WaitingJob> rated(Jobs waiting);
  scheduling::WaitingJob rate(const LiveJob& job);
  int64_t group_of(const LiveJob& job);
  double now_ms() const;

  const EngineCalls& engine_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  scheduling::LaneTable lanes_;
  std::map<std::string, Known> known_;  ///< by their ids: those that wait, and those that are drawn
  int64_t groups_ = 0;
};

}  // namespace nostos::server
