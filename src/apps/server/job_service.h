// Owns the life of jobs: admission, turns, drawing, cancelling, and telling those who watch.
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

#include "apps/server/fair_queue.h"
#include "apps/server/job_store.h"
#include "apps/server/metrics.h"
#include "pipeline/batch.h"
#include "pipeline/generation.h"

namespace nostos::server {

/// Something that happened to a job.
struct JobEvent {
  std::string name;  ///< queued, started, stage, step, preview, partial, done
  std::string data;  ///< JSON on one line; of `partial` a picture file in base64
};

/// Somebody who follows a job.
struct JobWatcher {
  /// May be called with the service's lock held: hand the event on and return.
  std::function<void(const JobEvent& event)> tell;
  bool previews = false;       ///< told `preview` events, a few a second
  int64_t partial_images = 0;  ///< `partial` events wanted of each picture, spread evenly over its steps
};

/// What the service wants of an engine.
struct Drawing {
  /// Draws requests of one size and number of steps together. \return as Engine::generate()
  std::function<std::vector<Generation>(std::span<const GenerationRequest> requests,
                                        std::span<const Progress> progress)>
      draw;
  /// \return how many pictures like the request's are worth drawing together, at least 1. \throws Error invalid_input
  std::function<int64_t(const GenerationRequest& request)> pictures_at_once;
  /// \return whether `draw` takes both in one list.
  std::function<bool(const GenerationRequest& a, const GenerationRequest& b)> takes_together =
      [](const GenerationRequest& a, const GenerationRequest& b) {
        return draws_together(resolve(a, {}), resolve(b, {}));
      };
};

/// Any thread, but for run(), which one thread calls.
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
  std::shared_ptr<const Image> preview_of_running();

  /// Tells `watcher` what is true now, then what changes; `done` is the last. \return a name for unwatch(), or 0 if the
  /// job has ended, or is unknown.
  uint64_t watch(const std::string& id, JobWatcher watcher);
  void unwatch(const std::string& id, uint64_t watch);
  /// Forgets all watchers, which may not outlive what they write to.
  void unwatch_all();

  /// Draws jobs until stop(). A job that the store has no space for returns to its place in the queue, and nothing more
  /// is drawn until take_up(); one whose client waits fails. \throws nothing: a failing job fails alone; but for what
  /// ends_process(), after which nothing can be drawn, and for a store that is damaged.
  void run(const Drawing& drawing);

  /// Admits no more and begins no more; those whose client waits in line are cancelled, the others stay on disk.
  /// The job being drawn has `grace` to end, then returns to the queue.
  void stop(std::chrono::milliseconds grace);

  size_t waiting() const;
  bool is_drawing() const;

 private:
  struct Live {
    std::string client;
    bool running = false, attached = false;
    GenerationRequest request{};
    int64_t pictures = 1, steps = 1;  ///< steps of each picture
    int64_t position = -1;            ///< that was told last
    double started_at = 0;
    JobProgress progress{};
    PromptsCut cut{};
    std::chrono::steady_clock::time_point step_told{}, preview_made{}, preview_asked{};
    std::shared_ptr<const Image> preview{};
    std::atomic<bool> stop_drawing{false};
    bool cancelled = false;
    std::map<uint64_t, JobWatcher> watchers{};
  };

  bool has_taken_up() const;
  /// Puts a job that is in the store into the queue.
  void enqueue(const Job& job);
  /// A job while it is drawn.
  struct Turn {
    std::string id;
    std::shared_ptr<Live> live;
    Job job{};
    std::chrono::steady_clock::time_point start{};
    double queue_ms = 0;
    JobStatus status = JobStatus::running;
    std::string error{};
  };

  /// \return the job whose turn it is, and waiting ones that are worth drawing with it.
  std::vector<Turn> take_turns(const Drawing& drawing);
  /// Says in the store that a turn's job runs, and gets what is stored of it.
  void begin(Turn& turn);
  void draw_together(std::span<Turn> turns, const Drawing& drawing);
  /// Keeps what was made for each of `drawn`. \param failure what drawing threw, or null \return whether that ends the
  /// process
  bool finish_all(std::span<Turn* const> drawn, const std::vector<Generation>& made, const std::exception_ptr& failure,
                  double engine_ms);
  void finish(Turn& turn, const Generation& generation, double engine_ms);
  /// Does `work` for a turn, which ends with what that throws.
  template <class Work>
  void guarded(Turn& turn, const Work& work);
  /// Ends a turn: its job is done, or back in the queue.
  void leave(const Turn& turn, size_t together);
  /// Puts a job that was not drawn, or not kept, back in its place in the queue.
  void put_back(const Turn& turn);
  /// \param images gets those whose files are there, at least in part
  /// \param encode_ms grows by the time that making the files' bytes takes
  void write_pictures(const Job& job, const Generation& generation, std::vector<JobImage>& images, double& encode_ms);
  Progress progress_of(const Job& job, Live& live);
  bool wants_preview(const Live& live, int64_t step) const;
  void show_preview(const Job& job, Live& live, const PictureStep& at, const Image& picture);
  void tell(const Live& live, const char* event, const nlohmann::ordered_json& data);
  void tell_positions();
  void end(const std::string& id);
  /// \return the job object with what happens to the job now, or nothing if nothing does.
  std::optional<nlohmann::ordered_json> describe_live(const Job& job) const;

  JobStore& store_;
  Metrics& metrics_;
  const size_t queue_limit_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  FairQueue queue_;
  std::map<std::string, std::shared_ptr<Live>> live_;  ///< jobs that have not ended
  std::vector<std::string> running_;                   ///< jobs being drawn together; the first's turn it was
  size_t admitting_ = 0;                               ///< on their way into the store
  uint64_t watches_ = 0;
  bool taken_up_ = false;  ///< what the store had waiting
  bool stopping_ = false;
};

}  // namespace nostos::server
