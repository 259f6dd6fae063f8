// Implements the board of live jobs.
#include "apps/server/job_board.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;
using std::chrono::steady_clock;

/// Small pictures take steps faster than anybody can watch them.
constexpr std::chrono::milliseconds kStepEvents{50};
constexpr std::chrono::milliseconds kPreviewEvents{250};
constexpr std::chrono::seconds kPreviewsAfterAsking{3};

/// \return whether one of `count` partial images of a picture of `steps` steps comes after its step `step`.
bool is_partial_step(int64_t step, int64_t steps, int64_t count) {
  const auto part = [&](int64_t done) { return done * (count + 1) / steps; };
  return step < steps && part(step) > part(step - 1);
}

}  // namespace

LiveJob::LiveJob(const Job& job)
    : id(job.id),
      client(job.client),
      attached(job.attached),
      request(job.order.record.request),
      pictures(request.num_outputs),
      steps(drawn_steps(request)) {
  progress.steps = pictures * steps;
}

bool JobBoard::reserve(size_t limit) {
  const std::lock_guard lock(mutex_);
  if (queue_.size() + admitting_ >= limit) return false;
  ++admitting_;
  return true;
}

void JobBoard::release() {
  const std::lock_guard lock(mutex_);
  --admitting_;
}

void JobBoard::add(std::span<const Job> jobs, size_t reserved) {
  const std::lock_guard lock(mutex_);
  admitting_ -= reserved;
  for (const Job& job : jobs) {
    live_[job.id] = std::make_shared<LiveJob>(job);
    queue_.push(job.client, job.id);
  }
  changed();
}

JobBoard::Withdrawn JobBoard::withdraw(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) return Withdrawn::not_live;
  LiveJob& job = *found->second;
  if (job.running) job.cancelled = job.stop_drawing = true;
  return !job.running && queue_.remove(id) ? Withdrawn::waiting : Withdrawn::told;
}

void JobBoard::wait_again(const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (const auto found = live_.find(id); found != live_.end()) queue_.push(found->second->client, id);
  changed();
}

void JobBoard::end(const std::string& id, const std::optional<Job>& job) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  const std::shared_ptr<LiveJob> live = found->second;
  live_.erase(found);
  std::erase(running_, id);
  if (dealer_) dealer_->forget(id);
  changed();
  if (job) tell(*live, "done", job_json(*job, std::nullopt, std::nullopt));
}

void JobBoard::open(const EngineCalls& engine) {
  const std::lock_guard lock(mutex_);
  dealer_ = std::make_unique<JobDealer>(engine);
}

TakenLane JobBoard::take_turns(const std::function<bool()>& can_draw) {
  std::optional<scheduling::BegunLane> begun;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    if (closed_) return true;
    if (queue_.size() > 0 && can_draw()) begun = dealer_->begin(queued());
    return begun.has_value();
  });
  if (!begun) return {};
  TakenLane taken{.lane = begun->id, .places = begun->places, .work = begun->work};
  const std::vector<std::string> order = queue_.order();
  queue_.pop();  // whose client's next turn comes after those of all others
  for (const size_t index : begun->jobs) {
    const std::string& id = order[index];
    queue_.remove(id);
    LiveJob& job = *taken.jobs.emplace_back(live_.at(id));
    job.running = true;
    job.lane = taken.lane;
    job.started_at = unix_now();
    running_.push_back(id);
    tell(job, "started", {{"id", id}, {"started_at", job.started_at}});
  }
  set_places(taken.lane, taken.places);
  changed();
  return taken;
}

std::vector<int> JobBoard::next_places(int64_t lane, int64_t steps_left) {
  const std::lock_guard lock(mutex_);
  std::vector<int> places = dealer_->next(lane, steps_left, queued());
  // It is not asked again before it decodes.
  if (steps_left <= 1) dealer_->lanes().stepped(lane, 0);
  set_places(lane, places);
  return places;
}

void JobBoard::leave_places(int64_t lane) {
  const std::lock_guard lock(mutex_);
  dealer_->lanes().has_left(lane);
  changed_.notify_all();
}

void JobBoard::end_lane(int64_t lane) {
  const std::lock_guard lock(mutex_);
  dealer_->lanes().end(lane);
  changed_.notify_all();
}

void JobBoard::lose_places(const std::vector<int>& places) {
  const std::lock_guard lock(mutex_);
  for (const int place : places) dealer_->lanes().lose(place);
}

bool JobBoard::lost_places_first(LiveJob& job) {
  const std::lock_guard lock(mutex_);
  return !std::exchange(job.lost_places, true);
}

void JobBoard::learn(const std::function<void(scheduling::CostModel& costs)>& from) {
  const std::lock_guard lock(mutex_);
  from(dealer_->lanes().costs());
}

PlaceUse JobBoard::places() const {
  const std::lock_guard lock(mutex_);
  if (!dealer_) return {};
  const scheduling::LaneTable& lanes = dealer_->lanes();
  return {
      .places = lanes.places(), .lost = lanes.places() - lanes.healthy(), .busy = lanes.busy(), .lanes = lanes.count()};
}

std::vector<const LiveJob*> JobBoard::queued() const {
  std::vector<const LiveJob*> jobs;
  for (const std::string& id : queue_.order()) jobs.push_back(live_.at(id).get());
  return jobs;
}

void JobBoard::set_places(int64_t lane, const std::vector<int>& places) {
  if (dealer_->lanes().places() == 1) return;  // there is nothing to tell
  for (const std::string& id : running_)
    if (LiveJob& job = *live_.at(id); job.lane == lane) job.progress.places = places;
}

void JobBoard::set_stage(LiveJob& job, const char* stage) {
  const std::lock_guard lock(mutex_);
  job.progress.stage = stage;
  tell(job, "stage", {{"id", job.id}, {"stage", stage}});
}

void JobBoard::set_cut(LiveJob& job, PromptsCut cut) {
  const std::lock_guard lock(mutex_);
  job.cut = cut;
}

void JobBoard::set_step(LiveJob& job, int64_t step, int64_t steps, double step_ms) {
  const std::lock_guard lock(mutex_);
  JobProgress& progress = job.progress;
  progress.step = step;
  progress.steps = steps;
  // The first step of a size prepares kernels, so that later ones say more; their mean forgets it.
  progress.step_ms = step <= 2 ? step_ms : 0.7 * progress.step_ms + 0.3 * step_ms;
  progress.eta_s = progress.step_ms / 1000 * static_cast<double>(steps - step);
  const auto now = steady_clock::now();
  if (step < steps && now - job.step_told < kStepEvents) return;
  job.step_told = now;
  ordered_json data{{"id", job.id}};
  data.update(progress_json(progress, job.pictures));
  tell(job, "step", data);
}

bool JobBoard::wants_preview(const LiveJob& job, int64_t step) const {
  const std::lock_guard lock(mutex_);
  const auto now = steady_clock::now();
  const bool is_due = now - job.preview_made >= kPreviewEvents;
  if (is_due && now - job.preview_asked < kPreviewsAfterAsking) return true;
  return std::ranges::any_of(job.watchers, [&](const auto& entry) {
    const JobWatcher& watcher = entry.second;
    return (is_due && watcher.previews) || is_partial_step(step, job.steps, watcher.partial_images);
  });
}

JobBoard::PreviewWishes JobBoard::preview_wishes(const LiveJob& job, int64_t step) const {
  PreviewWishes wishes;
  const std::lock_guard lock(mutex_);
  for (const auto& [watch, watcher] : job.watchers) {
    wishes.previews |= watcher.previews;
    wishes.partial_images |= is_partial_step(step, job.steps, watcher.partial_images);
  }
  return wishes;
}

void JobBoard::show_preview(LiveJob& job, int64_t step, const Image& picture, const std::string& preview,
                            const std::string& partial) {
  const std::lock_guard lock(mutex_);
  job.preview = std::make_shared<const Image>(picture);
  job.preview_made = steady_clock::now();
  for (const auto& [watch, watcher] : job.watchers) {
    if (watcher.previews && !preview.empty()) watcher.tell({"preview", preview});
    if (is_partial_step(step, job.steps, watcher.partial_images) && !partial.empty())
      watcher.tell({"partial", partial});
  }
}

bool JobBoard::put_back(LiveJob& job) {
  const std::lock_guard lock(mutex_);
  job.running = false;
  job.lane = 0;
  job.stop_drawing = false;
  job.position = -1;
  job.started_at = 0;
  job.preview = nullptr;
  job.progress = {.steps = job.progress.steps};
  std::erase(running_, job.id);
  queue_.put_back(job.client, job.id);
  changed();
  return std::exchange(job.cancelled, false);
}

bool JobBoard::was_interrupted(const LiveJob& job) const {
  const std::lock_guard lock(mutex_);
  return !job.attached && closed_ && !job.cancelled;
}

void JobBoard::give_up() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (const std::string& id : running_) live_.at(id)->stop_drawing = true;
  changed_.notify_all();
}

void JobBoard::abandon_turns() {
  const std::lock_guard lock(mutex_);
  running_.clear();
  changed_.notify_all();
}

std::vector<std::string> JobBoard::close() {
  std::vector<std::string> in_line;
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
  for (const auto& [id, job] : live_) {
    if (job->attached && !job->running) in_line.push_back(id);
  }
  return in_line;
}

bool JobBoard::is_closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void JobBoard::wait_for_turns(std::chrono::milliseconds grace) {
  const auto is_idle = [this] { return running_.empty(); };
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, grace, is_idle))
    for (const std::string& id : running_) live_.at(id)->stop_drawing = true;
  changed_.wait(lock, is_idle);
}

std::optional<ordered_json> JobBoard::describe(const Job& job) const {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(job.id);
  // The store is a little ahead of, or behind, what watchers were told.
  if (found == live_.end() || has_ended(job.status)) return std::nullopt;
  const LiveJob& live = *found->second;
  Job shown = job;
  shown.status = live.running ? JobStatus::running : JobStatus::queued;
  shown.started_at = live.started_at;
  shown.cut = live.cut;
  if (live.running) return job_json(shown, std::nullopt, live.progress);
  return job_json(shown, std::max<int64_t>(live.position, 0), std::nullopt);
}

std::string JobBoard::drawn_first() const {
  const std::lock_guard lock(mutex_);
  return running_.empty() ? std::string() : running_.front();
}

std::shared_ptr<const Image> JobBoard::preview_of_drawn() {
  const std::lock_guard lock(mutex_);
  if (running_.empty()) return nullptr;
  LiveJob& job = *live_.at(running_.front());
  job.preview_asked = steady_clock::now();
  return job.preview;
}

uint64_t JobBoard::watch(const std::string& id, JobWatcher&& watcher) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) return 0;
  LiveJob& job = *found->second;
  const auto tell_it = [&](const char* event, const ordered_json& data) { watcher.tell({event, json_line(data)}); };
  if (job.running) {
    tell_it("started", {{"id", id}, {"started_at", job.started_at}});
    tell_it("stage", {{"id", id}, {"stage", job.progress.stage}});
    if (job.progress.step > 0) {
      ordered_json step{{"id", id}};
      step.update(progress_json(job.progress, job.pictures));
      tell_it("step", step);
    }
  } else {
    tell_it("queued", {{"id", id}, {"position", std::max<int64_t>(job.position, 0)}});
  }
  job.watchers.emplace(++watches_, std::move(watcher));
  return watches_;
}

void JobBoard::unwatch(const std::string& id, uint64_t watch) {
  const std::lock_guard lock(mutex_);
  if (const auto found = live_.find(id); found != live_.end()) found->second->watchers.erase(watch);
}

void JobBoard::unwatch_all() {
  std::vector<JobWatcher> gone;  // ends without the lock
  const std::lock_guard lock(mutex_);
  for (const auto& [id, job] : live_)
    for (auto& [watch, watcher] : std::exchange(job->watchers, {})) gone.push_back(std::move(watcher));
}

size_t JobBoard::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

bool JobBoard::is_drawing() const {
  const std::lock_guard lock(mutex_);
  return !running_.empty();
}

void JobBoard::tell(const LiveJob& job, const char* event, const ordered_json& data) {
  if (job.watchers.empty()) return;
  const JobEvent told{event, json_line(data)};
  for (const auto& [watch, watcher] : job.watchers) watcher.tell(told);
}

void JobBoard::changed() {
  changed_.notify_all();  // first: whatever a watcher does, those who wait are woken
  int64_t position = running_.empty() ? 0 : 1;
  for (const std::string& id : queue_.order()) {
    LiveJob& job = *live_.at(id);
    if (job.position != position) {
      job.position = position;
      tell(job, "queued", {{"id", id}, {"position", position}});
    }
    ++position;
  }
}

}  // namespace nostos::server
