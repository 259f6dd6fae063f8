// Implements the dealing of places to jobs.
#include "apps/server/job_dealer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "apps/server/job_board.h"
#include "base/elapsed.h"
#include "base/error.h"

namespace nostos::server {

JobDealer::JobDealer(const EngineCalls& engine)
    : engine_(engine),
      lanes_(
          engine.places,
          [policy = engine.policy](const scheduling::State& state, const scheduling::CostModel& costs) {
            return decide(state, costs, policy);
          },
          engine.costs) {}

std::optional<scheduling::BegunLane> JobDealer::begin(Jobs waiting) { return lanes_.begin(rated(waiting), now_ms()); }

std::vector<int> JobDealer::next(int64_t lane, int64_t steps_left, Jobs waiting) {
  return lanes_.next(lane, steps_left, rated(waiting), now_ms());
}

std::vector<scheduling::WaitingJob> JobDealer::rated(Jobs waiting) {
  std::vector<scheduling::WaitingJob> jobs;
  jobs.reserve(waiting.size());
  for (const LiveJob* job : waiting) {
    auto found = known_.find(job->id);
    if (found == known_.end()) {
      found = known_.emplace(job->id, Known{job, rate(*job)}).first;
      lanes_.came(found->second.rated.work, now_ms());
    }
    jobs.push_back(found->second.rated);
  }
  return jobs;
}

scheduling::WaitingJob JobDealer::rate(const LiveJob& job) {
  scheduling::WaitingJob rated{
      .id = job.id, .work = {.rows = 1, .images = job.pictures, .steps = job.steps}, .group = groups_ + 1};
  try {
    rated.group = group_of(job);
    rated.work = engine_.work(job.request);
    rated.together = engine_.pictures_at_once(job.request);
  } catch (const Error&) {  // drawing it will say what is wrong
  }
  groups_ = std::max(groups_, rated.group);
  return rated;
}

int64_t JobDealer::group_of(const LiveJob& job) {
  std::set<int64_t> asked;
  for (const auto& [id, known] : known_) {
    if (!asked.insert(known.rated.group).second) continue;
    if (engine_.takes_together(known.job->request, job.request)) return known.rated.group;
  }
  return groups_ + 1;
}

double JobDealer::now_ms() const { return ms_since(start_); }

}  // namespace nostos::server
