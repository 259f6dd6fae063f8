// Owns a simulated server: jobs arrive, a policy is asked, lanes take their time by a cost model, and nothing is drawn.
// Tests of the policy run hours of load in it within seconds.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "scheduling/policy.h"

namespace nostos::scheduling {

struct Arrival {
  double at_ms = 0;
  std::string client = "a";
  Work work{};
  int64_t together = 1;
};

/// A place that is lost at some time. The drawing on it is lost, too, and its jobs go back to the queue.
struct Loss {
  double at_ms = 0;
  int place = 0;
};

struct Simulation {
  int places = 2;
  CostModel truth{};     ///< the times that lanes take
  CostModel believed{};  ///< what the policy starts with; it observes what steps take
  bool learns = false;
  double noise = 0;  ///< relative, of each time
  std::function<Decision(const State&, const CostModel&)> decide{};
  bool checks_promises = true;
  std::vector<Loss> losses{};
};

struct Outcome {
  std::vector<double> latency_ms;  ///< of each arrival, from its coming to its end
  std::vector<double> begun_ms;    ///< of each arrival, when its drawing that ended began
  int redeals = 0;
  int lanes = 0;  ///< that were formed

  double mean_ms() const;
  double p95_ms() const;
};

/// \param arrivals in the order of time \return once all jobs have ended
Outcome simulate(const Simulation& simulation, const std::vector<Arrival>& arrivals);

/// \return `count` jobs that come at random (Poisson), with works drawn from `works` and clients "a" to "d". At load 1
/// they are as much as all places can draw, each place by itself.
std::vector<Arrival> poisson_arrivals(size_t count, double load, int places, const std::vector<Work>& works,
                                      unsigned seed);

/// The policies of servers with a fixed degree: all places draw one job, or each place draws its own. Jobs that wait
/// are in one queue, which is the best that replicas can have.
Decision fixed_degree(const State& state);
Decision replicas(const State& state);

}  // namespace nostos::scheduling
