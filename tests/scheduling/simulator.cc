// Implements the simulated server.
#include "scheduling/simulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "scheduling/fair_queue.h"
#include "scheduling/invariants.h"
#include "scheduling/lane_table.h"

namespace nostos::scheduling {
namespace {

constexpr double kNever = std::numeric_limits<double>::max();

/// A lane that draws. Before its first step it encodes prompts.
struct Lane {
  int64_t id = 0;
  std::vector<int> places;
  Work work;
  int64_t steps_left = 0;
  std::vector<size_t> jobs;
  double next_ms = 0;  ///< when what it does ends
  double began_ms = 0, step_began_ms = 0;
  bool is_encoding = true;
  bool may_change = false;  ///< a step has been made since the last change
};

class Server {
 public:
  Server(const Simulation& simulation, const std::vector<Arrival>& arrivals)
      : simulation_(simulation),
        arrivals_(arrivals),
        table_(
            simulation.places,
            [&simulation](const State& state, const CostModel& costs) {
              Decision decided = simulation.decide(state, costs);
              if (simulation.checks_promises) expect_keeps_promises(state, decided, costs);
              return decided;
            },
            simulation.believed) {
    outcome_.latency_ms.assign(arrivals.size(), -1);
    outcome_.begun_ms.assign(arrivals.size(), -1);
  }

  Outcome run() {
    size_t arrived = 0, lost = 0;
    while (ended_ < arrivals_.size() && !testing::Test::HasFatalFailure()) {
      const auto lane = std::ranges::min_element(lanes_, {}, &Lane::next_ms);
      const double lane_ms = lane == lanes_.end() ? kNever : lane->next_ms;
      const double arrival_ms = arrived < arrivals_.size() ? arrivals_[arrived].at_ms : kNever;
      const double loss_ms = lost < simulation_.losses.size() ? simulation_.losses[lost].at_ms : kNever;
      now_ = std::min({lane_ms, arrival_ms, loss_ms});
      if (now_ == kNever) {
        ADD_FAILURE() << "jobs wait for ever";
        break;
      }
      if (loss_ms == now_)
        lose(simulation_.losses[lost++].place);
      else if (arrival_ms == now_)
        arrive(arrived++);
      else
        advance(static_cast<size_t>(lane - lanes_.begin()));
      begin();
    }
    return outcome_;
  }

 private:
  void arrive(size_t job) {
    queue_.push(arrivals_[job].client, std::to_string(job));
    table_.came(arrivals_[job].work, now_);
  }

  void lose(int place) {
    table_.lose(place);
    std::erase_if(lanes_, [&](const Lane& lane) {
      if (std::ranges::find(lane.places, place) == lane.places.end()) return false;
      for (auto job = lane.jobs.rbegin(); job != lane.jobs.rend(); ++job)
        queue_.put_back(arrivals_[*job].client, std::to_string(*job));
      table_.end(lane.id);
      return true;
    });
  }

  /// What a lane did has ended: prompts, a step, or decoding.
  void advance(size_t index) {
    Lane& lane = lanes_[index];
    if (!lane.is_encoding && lane.steps_left == 0) return end(index);
    if (!lane.is_encoding) {
      if (simulation_.learns && lane.may_change)
        table_.costs().observe_step(lane.work, static_cast<int>(lane.places.size()), now_ - lane.step_began_ms);
      table_.stepped(lane.id, --lane.steps_left);
      lane.may_change = true;
    }
    lane.is_encoding = false;
    const bool changes = lane.may_change && lane.steps_left > 0 && change(lane);
    const int degree = static_cast<int>(lane.places.size());
    const CostModel& truth = simulation_.truth;
    lane.step_began_ms = now_;
    lane.next_ms = now_ + (changes ? kRedealMs : 0) +
                   noisy(lane.steps_left > 0 ? truth.step_ms(lane.work, degree) : truth.vae_ms(lane.work, degree));
  }

  void end(size_t index) {
    const Lane& lane = lanes_[index];
    for (const size_t job : lane.jobs) {
      outcome_.latency_ms[job] = now_ - arrivals_[job].at_ms;
      outcome_.begun_ms[job] = lane.began_ms;
      ++ended_;
    }
    table_.end(lane.id);
    lanes_.erase(lanes_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  /// Asks for the lane's places from its next step on. \return whether they change
  bool change(Lane& lane) {
    std::vector<int> places = table_.next(lane.id, lane.steps_left, waiting(), now_);
    table_.has_left(lane.id);
    if (places == lane.places) return false;
    lane.places = std::move(places);
    lane.may_change = false;
    ++outcome_.redeals;
    return true;
  }

  /// Forms the lanes that the policy wants now.
  void begin() {
    for (;;) {
      const std::vector<WaitingJob> jobs = waiting();
      std::optional<BegunLane> begun = table_.begin(jobs, now_);
      if (!begun) return;
      Lane lane{.id = begun->id, .places = std::move(begun->places), .work = begun->work, .jobs = {}};
      EXPECT_EQ(queue_.pop(), jobs[begun->jobs.front()].id) << "the turn is another's";
      for (const size_t index : begun->jobs) {
        queue_.remove(jobs[index].id);
        lane.jobs.push_back(std::stoul(jobs[index].id));
      }
      lane.steps_left = lane.work.steps;
      lane.began_ms = now_;
      lane.next_ms = now_ + noisy(simulation_.truth.text_ms(lane.work));
      lanes_.push_back(std::move(lane));
      ++outcome_.lanes;
    }
  }

  std::vector<WaitingJob> waiting() const {
    std::vector<WaitingJob> jobs;
    for (const std::string& id : queue_.order()) {
      const Arrival& arrival = arrivals_[std::stoul(id)];
      jobs.push_back({id, arrival.work, arrival.work.rows * 1000 + arrival.work.steps, arrival.together});
    }
    return jobs;
  }

  double noisy(double ms) {
    if (simulation_.noise == 0) return ms;
    return ms * std::max(0.2, 1 + simulation_.noise * normal_(random_));
  }

  const Simulation& simulation_;
  const std::vector<Arrival>& arrivals_;
  LaneTable table_;
  FairQueue queue_;
  std::vector<Lane> lanes_;
  Outcome outcome_;
  double now_ = 0;
  size_t ended_ = 0;
  std::mt19937 random_{1};
  std::normal_distribution<double> normal_;
};

std::vector<int> free_places(const State& state) {
  std::vector<int> free;
  for (size_t place = 0; place < state.healthy.size(); ++place) {
    const int index = static_cast<int>(place);
    const bool taken = std::ranges::any_of(state.lanes, [&](const RunningLane& lane) {
      return std::ranges::find(lane.places, index) != lane.places.end();
    });
    if (state.healthy[place] && !taken) free.push_back(index);
  }
  return free;
}

Decision unchanged(const State& state) {
  Decision decision;
  for (const RunningLane& lane : state.lanes) decision.lanes.push_back(lane.places);
  return decision;
}

}  // namespace

double Outcome::mean_ms() const {
  return std::accumulate(latency_ms.begin(), latency_ms.end(), 0.0) / static_cast<double>(latency_ms.size());
}

double Outcome::p95_ms() const {
  std::vector<double> sorted = latency_ms;
  std::ranges::sort(sorted);
  return sorted[sorted.size() * 95 / 100];
}

Outcome simulate(const Simulation& simulation, const std::vector<Arrival>& arrivals) {
  return Server(simulation, arrivals).run();
}

std::vector<Arrival> poisson_arrivals(size_t count, double load, int places, const std::vector<Work>& works,
                                      unsigned seed) {
  const CostModel costs;
  double mean_ms = 0;
  for (const Work& work : works) mean_ms += costs.total_ms(work, 1) / static_cast<double>(works.size());
  std::mt19937 random(seed);
  std::exponential_distribution<double> gap(load * places / mean_ms);
  std::vector<Arrival> arrivals;
  for (double now = gap(random); arrivals.size() < count; now += gap(random))
    arrivals.push_back({now, std::string(1, static_cast<char>('a' + random() % 4)), works[random() % works.size()]});
  return arrivals;
}

Decision fixed_degree(const State& state) {
  Decision decision = unchanged(state);
  if (state.lanes.empty() && !state.waiting.empty()) decision.starts.push_back({free_places(state), {0}});
  return decision;
}

Decision replicas(const State& state) {
  Decision decision = unchanged(state);
  size_t job = 0;
  for (const int place : free_places(state))
    if (job < state.waiting.size()) decision.starts.push_back({{place}, {job++}});
  return decision;
}

}  // namespace nostos::scheduling
