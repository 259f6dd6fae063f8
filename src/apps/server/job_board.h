// Owns the live jobs, which have not ended: whose turn is next, which are drawn, how far they are, who watches them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/server/job.h"
#include "apps/server/job_dealer.h"
#include "pipeline/generation.h"
#include "scheduling/fair_queue.h"

namespace nostos::server {

/// Something that happened to a job.
struct JobEvent {
  std::string name;  ///< queued, started, stage, step, preview, partial, done
  std::string data;  ///< JSON on one line; of `partial` a picture file in base64
};

/// Somebody who follows a job.
struct JobWatcher {
  /// May be called with the board's lock held: hand the event on and return.
  std::function<void(const JobEvent& event)> tell;
  bool previews = false;       ///< told `preview` events, a few a second
  int64_t partial_images = 0;  ///< `partial` events wanted of each picture, spread evenly over its steps
};

/// A job that has not ended. What is const anybody may read, and `stop_drawing` set; the rest is the board's.
class LiveJob {
 public:
  explicit LiveJob(const Job& job);

  const std::string id, client;
  const bool attached;
  const GenerationRequest request;
  const int64_t pictures, steps;  ///< steps of each picture
  std::atomic<bool> stop_drawing{false};

 private:
  friend class JobBoard;
  using Time = std::chrono::steady_clock::time_point;

  bool running = false, cancelled = false;
  bool lost_places = false;  ///< a drawing of it did
  int64_t lane = 0;          ///< that draws it
  int64_t position = -1;     ///< that was told last
  double started_at = 0;
  JobProgress progress{};
  PromptsCut cut{};
  Time step_told{}, preview_made{}, preview_asked{};
  std::shared_ptr<const Image> preview{};
  std::map<uint64_t, JobWatcher> watchers{};
};

/// Jobs that are drawn together, and the lane that draws them.
struct TakenLane {
  int64_t lane = 0;                              ///< its number
  std::vector<int> places{};                     ///< at its begin
  scheduling::Work work{};                       ///< of the jobs together
  std::vector<std::shared_ptr<LiveJob>> jobs{};  ///< the first's turn it was
};

/// How places are used.
struct PlaceUse {
  int places = 1, lost = 0, busy = 0;
  int lanes = 0;
};

/// Any thread may call it. The lock rule: each call takes the board's one lock, and holds it for work in memory alone.
/// The board knows no store, so nothing waits for the disk under the lock, which the thread that draws takes at each
/// step. Under the lock the board calls `tell` of watchers and what take_turns() was given: these call nothing of the
/// board, and wait for nothing.
class JobBoard {
 public:
  /// What became of a job that is not to be drawn.
  enum class Withdrawn {
    not_live,  ///< it has ended, or is unknown
    waiting,   ///< it has left the queue: the caller says how it ends, or has it wait_again()
    told       ///< it ends by itself: its drawing was told to stop, or somebody else withdraws it
  };
  struct PreviewWishes {
    bool previews = false, partial_images = false;
  };

  /// \return whether fewer than `limit` jobs wait or are on their way into the store; then another one is.
  bool reserve(size_t limit);
  /// One that was on its way did not come.
  void release();
  /// Puts jobs that are in the store into the queue. \param reserved how many of them were on their way
  void add(std::span<const Job> jobs, size_t reserved);

  Withdrawn withdraw(const std::string& id);
  void wait_again(const std::string& id);
  /// The job has ended: its watchers are told so, with what the store has of it if it has any, and forgotten.
  void end(const std::string& id, const std::optional<Job>& job);

  /// From now on turns can be taken, and jobs are dealt places. \param engine must outlive the board
  void open(const EngineCalls& engine);
  /// Waits until the policy has a lane begin. \param can_draw whether jobs can be drawn, asked whenever the board
  /// changes \return the lane, whose jobs are running from now on; without jobs once the board is closed
  TakenLane take_turns(const std::function<bool()>& can_draw);
  /// To be asked between two steps of a lane. \return its places from the next step on
  std::vector<int> next_places(int64_t lane, int64_t steps_left);
  /// The places that next_places() took from the lane are free.
  void leave_places(int64_t lane);
  /// All places of the lane are free.
  void end_lane(int64_t lane);
  /// Places are gone for good.
  void lose_places(const std::vector<int>& places);
  /// \return whether this is the first time that the job's drawing lost places.
  bool lost_places_first(LiveJob& job);
  /// Gives what expects times a measurement.
  void learn(const std::function<void(scheduling::CostModel& costs)>& from);
  PlaceUse places() const;

  void set_stage(LiveJob& job, const char* stage);
  void set_cut(LiveJob& job, PromptsCut cut);
  void set_step(LiveJob& job, int64_t step, int64_t steps, double step_ms);
  /// \return whether somebody wants to see the picture after this step; previews only a few times a second.
  bool wants_preview(const LiveJob& job, int64_t step) const;
  /// \return what of the picture after this step watchers wait for.
  PreviewWishes preview_wishes(const LiveJob& job, int64_t step) const;
  /// Keeps the picture, and tells `preview` and `partial` to those who wait for them; empty ones are not told.
  void show_preview(LiveJob& job, int64_t step, const Image& picture, const std::string& preview,
                    const std::string& partial);
  /// Puts a job that was not drawn, or not kept, back in its place in the queue. \return whether its client wanted it
  /// cancelled meanwhile
  bool put_back(LiveJob& job);
  /// \return whether the drawing of a job that others can wait for ended because the board was closed.
  bool was_interrupted(const LiveJob& job) const;
  /// Begins no more turns, and has those that are drawn stop.
  void give_up();
  /// Nothing is drawn any more, whatever became of it.
  void abandon_turns();

  /// Begins no more turns. \return the jobs in the queue whose client waits in line
  std::vector<std::string> close();
  bool is_closed() const;
  /// Waits until nothing is drawn; what still is after `grace` is told to stop.
  void wait_for_turns(std::chrono::milliseconds grace);

  /// \return the job object with what happens to the job now, or nothing if nothing does.
  std::optional<nlohmann::ordered_json> describe(const Job& job) const;
  /// \return the job being drawn, of several the one that began first; empty if there is none.
  std::string drawn_first() const;
  /// \return the last preview of drawn_first(), or null; from now on, for a while, it has some.
  std::shared_ptr<const Image> preview_of_drawn();
  /// Tells `watcher` what is true now, then what changes; `done` is the last. \return a name for unwatch(), or 0 if the
  /// job is not live; then the watcher is left to the caller
  uint64_t watch(const std::string& id, JobWatcher&& watcher);
  void unwatch(const std::string& id, uint64_t watch);
  void unwatch_all();

  size_t waiting() const;
  bool is_drawing() const;

 private:
  // All with the lock held.
  std::vector<const LiveJob*> queued() const;  ///< in the order of turns
  void set_places(int64_t lane, const std::vector<int>& places);
  void tell(const LiveJob& job, const char* event, const nlohmann::ordered_json& data);
  void changed();  ///< tells positions, and wakes those who wait

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  scheduling::FairQueue queue_;
  std::map<std::string, std::shared_ptr<LiveJob>> live_;
  std::vector<std::string> running_;  ///< in the order in which they began
  std::unique_ptr<JobDealer> dealer_;
  size_t admitting_ = 0;  ///< on their way into the store
  uint64_t watches_ = 0;
  bool closed_ = false;
};

}  // namespace nostos::server
