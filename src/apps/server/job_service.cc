// Implements the admission of jobs, and their end.
#include "apps/server/job_service.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "apps/server/api_error.h"
#include "apps/server/json_log.h"
#include "io/json_text.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

ApiError no_storage(const std::optional<std::string>& trouble) {
  return insufficient_storage(trouble.value_or("it has only just found space again"));
}

}  // namespace

JobService::JobService(JobStore& store, Metrics& metrics, size_t queue_limit)
    : store_(store), metrics_(metrics), queue_limit_(queue_limit) {
  take_up();
}

void JobService::take_up() {
  const bool is_due = store_.is_recovered() && !taken_up_;
  board_.add(is_due ? store_.queued() : std::vector<Job>(), 0);
  if (is_due) taken_up_ = true;
}

void JobService::take_place() {
  if (board_.is_closed()) throw overloaded("stopping", "the server is shutting down", 10);
  const std::optional<std::string> trouble = store_.trouble();
  const bool can_store = !trouble && taken_up_;
  if (can_store && board_.reserve(queue_limit_)) return;
  metrics_.add("nostos_jobs_refused_total");
  if (!can_store) throw no_storage(trouble);
  throw overloaded("queue_full", fmt::format("the queue is full: {} jobs wait", queue_limit_), 5);
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
  take_place();
  Job stored;
  try {
    stored = store_.insert(job);
  } catch (...) {
    board_.release();
    throw;
  }
  if (stored.id != job.id) {
    board_.release();
    return same_body(std::move(stored));
  }
  board_.add({&job, 1}, 1);
  metrics_.add("nostos_jobs_accepted_total");
  if (!job.order.record.request.adapters.empty()) metrics_.add("nostos_jobs_with_loras_total");
  // stop() cancels the jobs of clients that wait; it may have looked before this one came.
  if (job.attached && board_.is_closed()) cancel(job.id);
  return stored;
}

std::optional<Job> JobService::cancel(const std::string& id) {
  const JobBoard::Withdrawn withdrawn = board_.withdraw(id);
  if (withdrawn != JobBoard::Withdrawn::waiting) {
    const auto job = store_.find(id);
    if (job && withdrawn == JobBoard::Withdrawn::not_live && !has_ended(job->status) && !taken_up_)
      throw no_storage(store_.trouble());
    return job;
  }
  try {
    store_.set_ended(id, JobStatus::cancelled, "cancelled while it waited");
  } catch (...) {
    board_.wait_again(id);  // still to be drawn, as the store has it
    throw;
  }
  metrics_.add("nostos_jobs_total", label("status", "cancelled"));
  board_.end(id, store_.find(id));
  return store_.find(id);
}

bool JobService::forget(const std::string& id) {
  const auto job = store_.find(id);
  if (!job) return false;
  if (!has_ended(job->status))
    throw ApiError(409, "conflict_error", "the job has not ended: cancel it first", {}, "not_ended");
  // Those who watch one that the store has only just got the end of are told, while there is something to tell.
  board_.end(id, store_.find(id));
  store_.remove(*job);
  return true;
}

void JobService::interrupt() {
  if (const std::string id = board_.drawn_first(); !id.empty()) cancel(id);
}

ordered_json JobService::describe(const Job& job) {
  if (auto live = board_.describe(job)) return *live;
  // One that had not ended when it was read has since.
  const auto ended = has_ended(job.status) ? std::nullopt : store_.find(job.id);
  return job_json(ended.value_or(job), std::nullopt, std::nullopt);
}

std::optional<ordered_json> JobService::describe(const std::string& id) {
  const auto job = store_.find(id);
  return job ? std::optional(describe(*job)) : std::nullopt;
}

std::optional<ordered_json> JobService::describe_running() {
  const std::string id = board_.drawn_first();
  return id.empty() ? std::nullopt : describe(id);
}

uint64_t JobService::watch(const std::string& id, JobWatcher watcher) {
  const uint64_t watch = board_.watch(id, std::move(watcher));
  if (watch != 0) return watch;
  if (const auto job = store_.find(id)) watcher.tell({"done", json_line(describe(*job))});
  return 0;
}

void JobService::stop(std::chrono::milliseconds grace) {
  for (const std::string& id : board_.close()) {
    try {
      cancel(id);
    } catch (const std::exception& error) {
      // The next start cancels it, as one whose client is gone.
      log_json(LogLevel::error, "job not cancelled", {{"job", id}, {"error", error.what()}});
    }
  }
  board_.wait_for_turns(grace);
}

}  // namespace nostos::server
