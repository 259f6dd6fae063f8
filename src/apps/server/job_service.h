// Owns the jobs of a server: lets them in, cancels and forgets them, and says what becomes of them. What is live of
// them is job_board.h's, their drawing job_runner.h's, what is kept of them job_store.h's.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "apps/server/job_board.h"
#include "apps/server/job_runner.h"
#include "apps/server/job_store.h"
#include "apps/server/metrics.h"

namespace nostos::server {

/// Any thread, but for run(), which one thread calls, once.
class JobService {
 public:
  /// Takes up the jobs that the store has waiting. Both must outlive it.
  JobService(JobStore& store, Metrics& metrics, size_t queue_limit);

  /// Goes on where the store can be written again: what it only now has waiting is taken up, and drawing begins.
  void take_up();

  /// Puts a job that is on disk when this returns into the queue. \return the job, or that made earlier with its key
  /// \throws ApiError 503 if the queue is full or stopping, 507 if nothing can be stored, 409 if the key was used with
  /// another body
  Job submit(Job job);

  /// Ends a waiting job at once, a running one within a step. \return the job as it is then, or nothing if unknown
  std::optional<Job> cancel(const std::string& id);
  /// Removes an ended job and its pictures. \return whether there was one of that id \throws ApiError 409 if it has not
  /// ended
  bool forget(const std::string& id);
  /// Cancels the job being drawn, if any; of several the one whose turn it was.
  void interrupt();

  /// \return the job with its place and progress as the API shows it, or nothing.
  std::optional<nlohmann::ordered_json> describe(const std::string& id);
  nlohmann::ordered_json describe(const Job& job);
  /// \return the job object of the one being drawn, or nothing; of several the one whose turn it was.
  std::optional<nlohmann::ordered_json> describe_running();
  /// \return the last preview of the job being drawn, or null; from now on, for a while, it has some.
  std::shared_ptr<const Image> preview_of_running() { return board_.preview_of_drawn(); }

  /// Tells `watcher` what is true now, then what changes; `done` is the last. \return a name for unwatch(), or 0 if the
  /// job has ended, or is unknown.
  uint64_t watch(const std::string& id, JobWatcher watcher);
  void unwatch(const std::string& id, uint64_t watch) { board_.unwatch(id, watch); }
  /// Forgets all watchers, which may not outlive what they write to.
  void unwatch_all() { board_.unwatch_all(); }

  /// Draws jobs until stop(). \param engine must outlive it \throws what JobRunner::run() does
  void run(const EngineCalls& engine) { runner_.run(engine); }

  /// Admits no more and begins no more; those whose client waits in line are cancelled, the others stay on disk.
  /// The job being drawn has `grace` to end, then returns to the queue.
  void stop(std::chrono::milliseconds grace);

  size_t waiting() const { return board_.waiting(); }
  bool is_drawing() const { return board_.is_drawing(); }
  PlaceUse places() const { return board_.places(); }

 private:
  /// \throws ApiError 503 or 507 unless there is a place for one more job, which then is taken.
  void take_place();

  JobStore& store_;
  Metrics& metrics_;
  const size_t queue_limit_;
  JobBoard board_;
  JobRunner runner_{store_, metrics_, board_, [this](const std::string& id) { cancel(id); }};
  std::atomic<bool> taken_up_{false};  ///< what the store had waiting, which is on the board by then
};

}  // namespace nostos::server
