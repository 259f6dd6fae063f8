// Owns the rule that deals devices to drawings: a pure function from what is there to what is to be done. It knows
// neither engines nor clocks. A server asks it when a job comes, a drawing ends, and between the steps of a drawing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "scheduling/cost_model.h"

namespace nostos::scheduling {

/// What the choice between many narrow lanes and few wide ones is made for.
enum class Policy {
  latency,     ///< the jobs that are there end as early as possible in the mean, whatever comes after them
  throughput,  ///< as many lanes as there are jobs, for narrow lanes waste nothing on exchanges
  automatic,   ///< as latency, and what comes after them counts, too: as much as came lately
};

/// \return the policy "latency", "throughput" or "auto". \throws Error invalid_input for another name
Policy parse_policy(std::string_view name);

/// A job that waits.
struct WaitingJob {
  std::string id;
  Work work;
  int64_t group = 0;     ///< jobs of one group may be drawn together
  int64_t together = 1;  ///< images that one forward pass of one place is worth
};

/// A lane that draws.
struct RunningLane {
  std::vector<int> places;  ///< ascending
  Work work;
  int64_t steps_left = 0;  ///< 0: it decodes, and its places stay
};

/// What has come lately.
struct Demand {
  double jobs_per_ms = 0;
  double load = 0;  ///< of all places if each drew alone: 1 is as much as they can draw
};

/// All that a decision depends on, beside the cost model.
struct State {
  std::vector<bool> healthy;  ///< of each place
  std::vector<RunningLane> lanes;
  std::vector<WaitingJob> waiting;  ///< in the order of turns, see FairQueue
  Demand demand;
};

/// A lane to be formed now, of places that are free.
struct NewLane {
  std::vector<int> places;   ///< ascending
  std::vector<size_t> jobs;  ///< of State::waiting; the first's turn it is, the others join it
};

struct Decision {
  /// The places of each running lane from its next step on. Those that it does not have yet are free. The lane that is
  /// between two steps takes its own; the others are asked again when they are.
  std::vector<std::vector<int>> lanes;
  std::vector<NewLane> starts;
};

inline constexpr double kRedealMs = 10;  ///< that a lane loses at most when its places change

/// What it keeps, whatever the state:
/// * No healthy place stays free while a job waits.
/// * Jobs begin in the order of turns, but for those that join a drawing.
/// * Running lanes give places away only for waiting jobs, and get some only while none waits.
/// * Places that a lane gets save twice what the change costs.
/// * Once its decisions are carried out it decides nothing new: only arrivals, ends and passing time move places.
Decision decide(const State& state, const CostModel& costs, Policy policy);

/// Measures the demand. The last some 200 jobs count, the later the more. One thread at a time.
class DemandMeter {
 public:
  /// \param place_ms what the job takes one place \param places that are healthy
  void arrived(double now_ms, double place_ms, int places);
  Demand at(double now_ms, int places) const;

 private:
  double memory_ms(int places) const;

  double last_ms_ = 0, jobs_ = 0, place_ms_ = 0;  ///< the sums fade
};

}  // namespace nostos::scheduling
