// Owns the forecast that the policy compares numbers of lanes by: when jobs would end if so many were drawn at once.
#pragma once

#include <vector>

#include "scheduling/policy.h"

namespace nostos::scheduling {

/// How `places` are dealt to `lanes`: as equally as it goes, the first get one more. \return of lane `index`
int equal_share(int places, int lanes, int index);

/// The jobs of a state with their expected times.
class Forecast {
 public:
  /// \param places that are healthy
  Forecast(const State& state, const CostModel& costs, int places);

  /// \return what drawing with at most `lanes` at once costs: the sum of the times until the present jobs end, and what
  /// jobs that come meanwhile are expected to wait for them. Later jobs find the places busy for a time W, which
  /// shrinks by 1 - load a unit of time, so jobs_per_ms W^2 / (2 (1 - load)) job milliseconds in all.
  double cost(int lanes, const Demand& demand) const;

 private:
  struct Job {
    std::vector<double> left_ms;  ///< on 1, 2, ... places
    int places = 0;               ///< that it is drawn on now
  };
  const int places_;
  std::vector<Job> jobs_;  ///< running ones first
  size_t further_ = 0;     ///< jobs at the end of a long queue, which only wait
};

}  // namespace nostos::scheduling
