// Implements the rule that deals devices to drawings.
#include "scheduling/policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "scheduling/forecast.h"

namespace nostos::scheduling {
namespace {

constexpr double kWorthIt = 0.97;    // of the cost without another lane: what a forecast cannot tell apart stays
constexpr double kRedealReturn = 2;  // times its cost that a re-deal saves
constexpr double kMemoryJobs = 200;  // that demand is measured by

/// Makes one decision. Its steps follow one another: how many lanes, which shrink, which begin, which grow.
class Dealer {
 public:
  Dealer(const State& state, const CostModel& costs, Policy policy) : state_(state), costs_(costs), policy_(policy) {
    std::vector<bool> taken(state.healthy.size());
    for (const RunningLane& lane : state.lanes) {
      decision_.lanes.push_back(lane.places);
      for (const int place : lane.places) taken[static_cast<size_t>(place)] = true;
    }
    for (size_t place = 0; place < taken.size(); ++place)
      if (state.healthy[place] && !taken[place]) free_.push_back(static_cast<int>(place));
    healthy_ = static_cast<int>(std::ranges::count(state.healthy, true));
    waits_.resize(state.waiting.size());
    std::iota(waits_.begin(), waits_.end(), size_t{0});
  }

  Decision decide() {
    if (healthy_ == 0) return decision_;
    if (!waits_.empty()) {
      plan_lanes();
      begin();
      if (!waits_.empty()) shrink();
    }
    if (waits_.empty()) grow();
    return decision_;
  }

 private:
  /// Chooses how many lanes there are to be.
  void plan_lanes() {
    const int running = static_cast<int>(state_.lanes.size());
    const int most =
        std::min(healthy_, running + static_cast<int>(std::min<size_t>(waits_.size(), state_.healthy.size())));
    lanes_ = std::max(running + (free_.empty() ? 0 : 1), 1);
    if (policy_ == Policy::throughput || lanes_ >= most) {
      lanes_ = std::max(lanes_, most);
      return;
    }
    const Demand demand = policy_ == Policy::automatic ? state_.demand : Demand{};
    const Forecast forecast(state_, costs_, healthy_);
    double least = forecast.cost(lanes_, demand) * kWorthIt;
    for (int lanes = lanes_ + 1; lanes <= most; ++lanes) {
      const double cost = forecast.cost(lanes, demand);
      if (cost < least) lanes_ = lanes, least = cost;
    }
  }

  /// \return the places that a work has use for among `most`.
  int useful(const Work& work, int most) const { return costs_.fastest_degree(work, most); }

  /// Forms lanes of the free places.
  void begin() {
    while (!free_.empty() && !waits_.empty()) {
      const int planned = lanes_ - static_cast<int>(state_.lanes.size() + decision_.starts.size());
      const int free = static_cast<int>(free_.size());
      const int coming = std::clamp(planned, 1, std::min(free, static_cast<int>(waits_.size())));
      NewLane lane;
      lane.jobs = take_jobs(static_cast<size_t>(coming) - 1);
      const Work& work = state_.waiting[lane.jobs.front()].work;
      const int size = useful(work, equal_share(free, coming, 0));
      lane.places.assign(free_.begin(), free_.begin() + size);
      free_.erase(free_.begin(), free_.begin() + size);
      decision_.starts.push_back(std::move(lane));
    }
  }

  /// \return the job whose turn it is, and those that join it: of its group, as far as one pass is worth it. At least
  /// `others` are left for the other lanes that begin.
  std::vector<size_t> take_jobs(size_t others) {
    const WaitingJob& first = state_.waiting[waits_.front()];
    std::vector<size_t> jobs{waits_.front()};
    waits_.erase(waits_.begin());
    int64_t room = first.together - first.work.images;
    for (auto job = waits_.begin(); job != waits_.end() && waits_.size() > others;) {
      const WaitingJob& other = state_.waiting[*job];
      if (other.group != first.group || other.work.images > room) {
        ++job;
        continue;
      }
      room -= other.work.images;
      jobs.push_back(*job);
      job = waits_.erase(job);
    }
    return jobs;
  }

  /// Has wide lanes give places away at their next step, so that the lanes that are still to come have some.
  void shrink() {
    const int there = static_cast<int>(state_.lanes.size() + decision_.starts.size());
    if (lanes_ <= there) return;
    int places = healthy_, sharing = lanes_;
    std::vector<size_t> wide;
    for (size_t i = 0; i < state_.lanes.size(); ++i) {
      if (state_.lanes[i].steps_left > 0) {
        wide.push_back(i);
      } else {
        places -= static_cast<int>(state_.lanes[i].places.size());
        --sharing;
      }
    }
    std::ranges::stable_sort(wide, std::ranges::greater{}, [&](size_t i) { return state_.lanes[i].places.size(); });
    for (size_t i = 0; i < wide.size(); ++i) {
      std::vector<int>& own = decision_.lanes[wide[i]];
      const auto share = static_cast<size_t>(std::max(equal_share(places, sharing, static_cast<int>(i)), 1));
      own.resize(std::min(own.size(), share));
    }
  }

  /// Gives free places to running lanes, one after the other to the narrowest that gains from it.
  void grow() {
    const auto running = static_cast<int>(state_.lanes.size() + decision_.starts.size());
    if (free_.empty() || running == 0) return;
    std::vector<size_t> order(state_.lanes.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t i) { return state_.lanes[i].places.size(); });
    for (const size_t i : order) {
      const RunningLane& lane = state_.lanes[i];
      std::vector<int>& own = decision_.lanes[i];
      const int now = static_cast<int>(own.size());
      const int fair = (healthy_ + running - 1) / running;
      const int most = std::min(fair, now + static_cast<int>(free_.size()));
      const int wanted = most > now ? useful(lane.work, most) : now;
      if (wanted <= now || !pays(lane, now, wanted)) continue;
      own.insert(own.end(), free_.begin(), free_.begin() + (wanted - now));
      free_.erase(free_.begin(), free_.begin() + (wanted - now));
      std::ranges::sort(own);
    }
  }

  bool pays(const RunningLane& lane, int from, int to) const {
    const double saved = costs_.step_ms(lane.work, from) - costs_.step_ms(lane.work, to);
    return static_cast<double>(lane.steps_left) * saved > kRedealReturn * kRedealMs;
  }

  const State& state_;
  const CostModel& costs_;
  const Policy policy_;
  Decision decision_;
  std::vector<int> free_;
  std::vector<size_t> waits_;  ///< jobs that have not begun
  int healthy_ = 0;
  int lanes_ = 0;  ///< that there are to be
};

}  // namespace

Policy parse_policy(std::string_view name) {
  if (name == "latency") return Policy::latency;
  if (name == "throughput") return Policy::throughput;
  if (name == "auto") return Policy::automatic;
  fail(ErrorKind::invalid_input, "policy '{}' is unknown; use latency, throughput or auto", name);
}

Decision decide(const State& state, const CostModel& costs, Policy policy) {
  return Dealer(state, costs, policy).decide();
}

double DemandMeter::memory_ms(int places) const { return kMemoryJobs * place_ms_ / jobs_ / std::max(places, 1); }

void DemandMeter::arrived(double now_ms, double place_ms, int places) {
  if (jobs_ > 0) {
    const double kept = std::exp(-std::max(now_ms - last_ms_, 0.0) / memory_ms(places));
    jobs_ *= kept;
    place_ms_ *= kept;
  }
  jobs_ += 1;
  place_ms_ += std::max(place_ms, 1e-3);
  last_ms_ = now_ms;
}

Demand DemandMeter::at(double now_ms, int places) const {
  if (jobs_ == 0) return {};
  const double memory = memory_ms(places);
  const double kept = std::exp(-std::max(now_ms - last_ms_, 0.0) / memory);
  return {kept * jobs_ / memory, kept * place_ms_ / (memory * std::max(places, 1))};
}

}  // namespace nostos::scheduling
