// Owns the drawing of jobs, a lane after another on each of its threads, and what is kept of them.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "apps/server/drawn_lane.h"
#include "apps/server/engine_calls.h"
#include "apps/server/job_board.h"
#include "apps/server/job_store.h"
#include "apps/server/metrics.h"
#include "pipeline/generation.h"

namespace nostos::server {

class JobRunner {
 public:
  /// All must outlive it. \param cancel cancels a job of the board by its id
  JobRunner(JobStore& store, Metrics& metrics, JobBoard& board, std::function<void(const std::string& id)> cancel);

  /// Draws jobs until the board is closed, on a thread for each lane that there may be. A job that the store has no
  /// space for returns to its place in the queue, and nothing more is drawn until there is some; one whose client waits
  /// fails. A job whose lane lost a place returns, too, once; the others go on. \throws nothing: a failing job fails
  /// alone; but for what ends_process() where no place is left, after which nothing can be drawn, and for a store that
  /// is damaged.
  void run(const EngineCalls& engine);

 private:
  /// A job while it is drawn.
  struct Turn {
    std::shared_ptr<LiveJob> live;
    Job job{};  ///< as it is stored, once it was begun
    std::chrono::steady_clock::time_point start{};
    double queue_ms = 0;
    JobStatus status = JobStatus::running;
    std::string error{};
  };

  /// Draws one lane after the other until the board is closed.
  void draw_lanes(const EngineCalls& engine);
  /// Says in the store that a turn's job runs, and gets what is stored of it.
  void begin(Turn& turn);
  void draw_together(std::span<Turn> turns, DrawnLane& lane, const EngineCalls& engine);
  /// \return whether `failure` is the loss of places while others are left; then no lane gets those.
  bool lost_some_places(const std::exception_ptr& failure, const EngineCalls& engine);
  /// Keeps what was made for each of `drawn`. \param failure what drawing threw, or null \return whether that ends the
  /// process, if no place is left
  bool finish_all(std::span<Turn* const> drawn, const std::vector<Generation>& made, const std::exception_ptr& failure,
                  double engine_ms);
  void finish(Turn& turn, const Generation& generation, double engine_ms);
  /// Does `work` for a turn, which ends with what that throws.
  template <class Work>
  void guarded(Turn& turn, const Work& work);
  /// Ends a turn: its job is done, or back in the queue.
  void leave(const Turn& turn, size_t together);
  void put_back(const Turn& turn);
  /// \param images gets those whose files are there, at least in part
  /// \param encode_ms grows by the time that making the files' bytes takes
  void write_pictures(const Job& job, const Generation& generation, std::vector<JobImage>& images, double& encode_ms);
  Progress progress_of(const Turn& turn);
  void show_preview(const Turn& turn, const PictureStep& at, const Image& picture);

  JobStore& store_;
  Metrics& metrics_;
  JobBoard& board_;
  const std::function<void(const std::string& id)> cancel_;
};

}  // namespace nostos::server
