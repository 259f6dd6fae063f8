// Implements the lane of the board while it draws.
#include "apps/server/drawn_lane.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

namespace nostos::server {

DrawnLane::DrawnLane(JobBoard& board, Metrics& metrics, const EngineCalls& engine, const TakenLane& taken)
    : board_(board),
      metrics_(metrics),
      engine_(engine),
      id_(taken.lane),
      work_(taken.work),
      jobs_(taken.jobs.size()),
      lane_{.places = taken.places} {
  metrics_.add("nostos_lanes_total", label("places", std::to_string(lane_.places.size())));
}

DrawnLane::~DrawnLane() { board_.end_lane(id_); }

std::vector<Generation> DrawnLane::draw(std::span<const GenerationRequest> requests,
                                        std::span<const Progress> progress) {
  LaneChange change;
  if (engine_.places > 1) {
    change.next = [this](const LaneStep& at) { return next(at); };
    change.changed = [this](const Lane&) {
      board_.leave_places(id_);
      metrics_.add("nostos_lane_changes_total");
    };
  }
  is_whole_ = requests.size() == jobs_;
  steady_from_ = 1;
  last_done_ = 0;
  std::vector<Generation> made = engine_.draw(requests, progress, lane_, change);
  if (!made.empty()) measure(made.front().report);
  return made;
}

Lane DrawnLane::next(const LaneStep& at) {
  measure(at);
  const double steps_left = static_cast<double>(at.steps - at.steps_done) * static_cast<double>(work_.steps);
  Lane wanted{.places = board_.next_places(id_, std::llround(std::ceil(steps_left / static_cast<double>(at.steps))))};
  if (wanted != lane_) steady_from_ = at.steps_done + 1;  // the next step comes after a change
  lane_ = std::move(wanted);
  return lane_;
}

void DrawnLane::measure(const LaneStep& at) {
  const auto since = std::exchange(last_, std::chrono::steady_clock::now());
  const int64_t done = at.steps_done - std::exchange(last_done_, at.steps_done);
  // The first step of places prepares them.
  if (done <= 0 || last_done_ - done < steady_from_ || !is_whole_) return;
  const double ms = std::chrono::duration<double, std::milli>(last_ - since).count();
  const double steps = static_cast<double>(done) * static_cast<double>(work_.steps) / static_cast<double>(at.steps);
  board_.learn([&](scheduling::CostModel& costs) {
    costs.observe_step(work_, static_cast<int>(lane_.places.size()), ms / steps);
  });
}

void DrawnLane::measure(const RunReport& report) {
  if (!is_whole_ || engine_.places == 1) return;
  const auto stage_ms = [&report](std::string_view name) {
    const auto found = std::ranges::find(report.stages, name, &StageTime::name);
    return found == report.stages.end() ? 0 : found->ms;
  };
  const double text_ms = report.kept_captions > 0 ? 0 : stage_ms("text_encoder"), vae_ms = stage_ms("vae_decode");
  board_.learn([&](scheduling::CostModel& costs) {
    if (text_ms > 0) costs.observe_text(work_, text_ms);
    if (vae_ms > 0) costs.observe_decode(work_, static_cast<int>(lane_.places.size()), vae_ms);
  });
}

}  // namespace nostos::server
