// Implements the life of jobs. The service's lock is never held while the store reads or writes: the thread that draws
// takes it at each step, and would wait for the disk.
#include "apps/server/job_service.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "apps/server/api_error.h"
#include "apps/server/json_log.h"
#include "io/json_text.h"

namespace nostos::server {
using nlohmann::ordered_json;
using std::chrono::steady_clock;

JobService::JobService(JobStore& store, Metrics& metrics, size_t queue_limit)
    : store_(store), metrics_(metrics), queue_limit_(queue_limit) {
  take_up();
}

void JobService::take_up() {
  const bool is_due = store_.is_recovered() && !has_taken_up();
  const std::vector<Job> queued = is_due ? store_.queued() : std::vector<Job>();
  const std::lock_guard lock(mutex_);
  for (const Job& job : queued) enqueue(job);
  taken_up_ = taken_up_ || is_due;
  tell_positions();
  changed_.notify_all();
}

bool JobService::has_taken_up() const {
  const std::lock_guard lock(mutex_);
  return taken_up_;
}

void JobService::enqueue(const Job& job) {
  auto live = std::make_shared<Live>();
  live->client = job.client;
  live->attached = job.attached;
  live->request = job.order.record.request;
  live->pictures = live->request.num_outputs;
  live->steps = live->request.num_inference_steps.value();
  live->progress.steps = live->pictures * live->steps;
  live_[job.id] = std::move(live);
  queue_.push(job.client, job.id);
}

Job JobService::submit(Job job) {
  const auto same_body = [&job](Job earlier) {
    if (earlier.body != job.body)
      throw ApiError(409, "conflict_error", "this Idempotency-Key was used with another body", "Idempotency-Key",
                     "idempotency_key_reused");
    return earlier;
  };
  // Asked before there is a look at the queue: a retry wants no place in it.
  if (auto earlier = store_.find_by_key(job.idempotency_key)) return same_body(std::move(*earlier));
  const std::optional<std::string> trouble = store_.trouble();
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw overloaded("stopping", "the server is shutting down", 10);
    if (trouble || !taken_up_) {
      metrics_.add("nostos_jobs_refused_total");
      throw insufficient_storage(trouble.value_or("it has only just found space again"));
    }
    if (queue_.size() + admitting_ >= queue_limit_) {
      metrics_.add("nostos_jobs_refused_total");
      throw overloaded("queue_full", fmt::format("the queue is full: {} jobs wait", queue_limit_), 5);
    }
    ++admitting_;
  }
  Job stored;
  try {
    stored = store_.insert(job);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --admitting_;
    throw;
  }
  const std::lock_guard lock(mutex_);
  --admitting_;
  if (stored.id != job.id) return same_body(std::move(stored));
  enqueue(job);
  metrics_.add("nostos_jobs_accepted_total");
  tell_positions();
  changed_.notify_all();
  return stored;
}

std::optional<Job> JobService::cancel(const std::string& id) {
  std::shared_ptr<Live> live;
  bool is_waiting = false;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = live_.find(id); found != live_.end()) {
      live = found->second;
      if (live->running) live->cancelled = live->stop_drawing = true;
      is_waiting = !live->running && queue_.remove(id);  // or else somebody else is cancelling it
    }
  }
  if (!is_waiting) {
    const auto job = store_.find(id);
    if (job && !live && !has_ended(job->status) && !has_taken_up())
      throw insufficient_storage(store_.trouble().value_or("it has only just found space again"));
    return job;
  }
  try {
    store_.set_ended(id, JobStatus::cancelled, "cancelled while it waited");
  } catch (...) {
    // Still to be drawn, as the store has it.
    const std::lock_guard lock(mutex_);
    queue_.push(live->client, id);
    tell_positions();
    changed_.notify_all();
    throw;
  }
  metrics_.add("nostos_jobs_total", label("status", "cancelled"));
  end(id);
  return store_.find(id);
}

bool JobService::forget(const std::string& id) {
  const auto job = store_.find(id);
  if (!job) return false;
  if (!has_ended(job->status))
    throw ApiError(409, "conflict_error", "the job has not ended: cancel it first", {}, "not_ended");
  end(id);  // those who watch one that the store has only just got the end of are told, while there is something to tell
  store_.remove(*job);
  return true;
}

void JobService::interrupt() {
  std::string id;
  {
    const std::lock_guard lock(mutex_);
    if (!running_.empty()) id = running_.front();
  }
  if (!id.empty()) cancel(id);
}

std::optional<ordered_json> JobService::describe_live(const Job& job) const {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(job.id);
  // The store is a little ahead of, or behind, what watchers were told.
  if (found == live_.end() || has_ended(job.status)) return std::nullopt;
  const Live& live = *found->second;
  Job shown = job;
  shown.status = live.running ? JobStatus::running : JobStatus::queued;
  shown.started_at = live.started_at;
  shown.cut = live.cut;
  if (live.running) return job_json(shown, std::nullopt, live.progress);
  return job_json(shown, std::max<int64_t>(live.position, 0), std::nullopt);
}

ordered_json JobService::describe(const Job& job) {
  if (auto live = describe_live(job)) return *live;
  // One that had not ended when it was read has since.
  const auto ended = has_ended(job.status) ? std::nullopt : store_.find(job.id);
  return job_json(ended.value_or(job), std::nullopt, std::nullopt);
}

std::optional<ordered_json> JobService::describe(const std::string& id) {
  const auto job = store_.find(id);
  return job ? std::optional(describe(*job)) : std::nullopt;
}

std::optional<ordered_json> JobService::describe_running() {
  std::string id;
  {
    const std::lock_guard lock(mutex_);
    if (!running_.empty()) id = running_.front();
  }
  return id.empty() ? std::nullopt : describe(id);
}

std::shared_ptr<const Image> JobService::preview_of_running() {
  const std::lock_guard lock(mutex_);
  if (running_.empty()) return nullptr;
  Live& live = *live_.at(running_.front());
  live.preview_asked = steady_clock::now();
  return live.preview;
}

uint64_t JobService::watch(const std::string& id, JobWatcher watcher) {
  std::unique_lock lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) {
    lock.unlock();
    if (const auto job = store_.find(id)) watcher.tell({"done", json_line(describe(*job))});
    return 0;
  }
  Live& live = *found->second;
  if (live.running) {
    watcher.tell({"started", json_line({{"id", id}, {"started_at", live.started_at}})});
    watcher.tell({"stage", json_line({{"id", id}, {"stage", live.progress.stage}})});
    if (live.progress.step > 0) {
      ordered_json step{{"id", id}};
      step.update(progress_json(live.progress, live.pictures));
      watcher.tell({"step", json_line(step)});
    }
  } else {
    watcher.tell({"queued", json_line({{"id", id}, {"position", std::max<int64_t>(live.position, 0)}})});
  }
  live.watchers[++watches_] = std::move(watcher);
  return watches_;
}

void JobService::unwatch(const std::string& id, uint64_t watch) {
  const std::lock_guard lock(mutex_);
  if (const auto found = live_.find(id); found != live_.end()) found->second->watchers.erase(watch);
}

void JobService::unwatch_all() {
  std::vector<JobWatcher> gone;  // ends without the lock
  const std::lock_guard lock(mutex_);
  for (const auto& [id, live] : live_)
    for (auto& [watch, watcher] : std::exchange(live->watchers, {})) gone.push_back(std::move(watcher));
}

void JobService::tell(const Live& live, const char* event, const ordered_json& data) {
  if (live.watchers.empty()) return;
  const JobEvent told{event, json_line(data)};
  for (const auto& [watch, watcher] : live.watchers) watcher.tell(told);
}

void JobService::tell_positions() {
  int64_t position = running_.empty() ? 0 : 1;
  for (const std::string& id : queue_.order()) {
    Live& live = *live_.at(id);
    if (live.position != position) {
      live.position = position;
      tell(live, "queued", {{"id", id}, {"position", position}});
    }
    ++position;
  }
}

void JobService::end(const std::string& id) {
  const auto job = store_.find(id);
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  const std::shared_ptr<Live> live = found->second;
  live_.erase(found);
  std::erase(running_, id);
  if (job) tell(*live, "done", job_json(*job, std::nullopt, std::nullopt));
  tell_positions();
  changed_.notify_all();
}

void JobService::stop(std::chrono::milliseconds grace) {
  std::vector<std::string> useless;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    for (const auto& [id, live] : live_) {
      if (live->attached && !live->running) useless.push_back(id);
    }
  }
  for (const std::string& id : useless) {
    try {
      cancel(id);
    } catch (const std::exception& error) {
      // The next start cancels it, as one whose client is gone.
      log_json(LogLevel::error, "job not cancelled", {{"job", id}, {"error", error.what()}});
    }
  }
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, grace, [this] { return running_.empty(); }))
    for (const std::string& id : running_) live_.at(id)->stop_drawing = true;
  changed_.wait(lock, [this] { return running_.empty(); });
}

size_t JobService::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

bool JobService::is_drawing() const {
  const std::lock_guard lock(mutex_);
  return !running_.empty();
}

}  // namespace nostos::server
