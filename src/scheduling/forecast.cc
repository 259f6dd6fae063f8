// Implements the forecast.
#include "scheduling/forecast.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace nostos::scheduling {
namespace {

constexpr size_t kForeseen = 64;       // jobs whose ends are computed: a decision is made at every step
constexpr double kHighestLoad = 0.95;  // a measured load is a guess: what it forbids may still be right

}  // namespace

int equal_share(int places, int lanes, int index) { return places / lanes + (index < places % lanes ? 1 : 0); }

Forecast::Forecast(const State& state, const CostModel& costs, int places) : places_(places) {
  const auto add = [&](const Work& work, int64_t steps_left, bool begun, int on) {
    Job job{.left_ms = {}, .places = on};
    for (int degree = 1; degree <= places_; ++degree) {
      const double ms = static_cast<double>(steps_left) * costs.step_ms(work, degree) + costs.vae_ms(work, degree);
      job.left_ms.push_back(ms + (begun ? 0 : costs.text_ms(work)));
      // More places than are of use stay free.
      if (degree > 1) job.left_ms.back() = std::min(job.left_ms.back(), job.left_ms[static_cast<size_t>(degree) - 2]);
    }
    jobs_.push_back(std::move(job));
  };
  for (const RunningLane& lane : state.lanes)
    add(lane.work, lane.steps_left, true, static_cast<int>(lane.places.size()));
  for (const WaitingJob& job : state.waiting) {
    if (jobs_.size() < kForeseen)
      add(job.work, job.work.steps, false, 0);
    else
      ++further_;
  }
}

double Forecast::cost(int lanes, const Demand& demand) const {
  struct Active {
    size_t job;
    int places;        ///< 0 before it begins
    double share = 1;  ///< that is left
  };
  std::vector<Active> active;
  size_t next = 0;
  double now = 0, total = 0;
  for (size_t ended = 0; ended < jobs_.size();) {
    const size_t count = std::min(static_cast<size_t>(lanes), jobs_.size() - ended);
    for (; active.size() < count; ++next) active.push_back({next, jobs_[next].places});
    const auto left_ms = [&](const Active& one) { return jobs_[one.job].left_ms[static_cast<size_t>(one.places) - 1]; };
    for (size_t i = 0; i < count; ++i) {
      const int places = equal_share(places_, static_cast<int>(count), static_cast<int>(i));
      const int before = std::exchange(active[i].places, places);
      if (before != 0 && before != places) active[i].share += kRedealMs / left_ms(active[i]);
    }
    double step = std::numeric_limits<double>::max();
    for (const Active& one : active) step = std::min(step, one.share * left_ms(one));
    for (Active& one : active) one.share -= step / left_ms(one);
    now += step;
    const size_t ends = std::erase_if(active, [](const Active& one) { return one.share < 1e-9; });
    total += now * static_cast<double>(ends);
    ended += ends;
  }
  const double load = std::min(demand.load, kHighestLoad);
  return total + now * static_cast<double>(further_) + demand.jobs_per_ms * now * now / (2 * (1 - load));
}

}  // namespace nostos::scheduling
