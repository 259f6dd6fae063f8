// Implements the life of jobs. Order of locks: the service's, then the store's.
#include "apps/server/job_service.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/cli/json_text.h"
#include "apps/cli/request_warnings.h"
#include "apps/server/api_error.h"
#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "base/error.h"
#include "io/file.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;
using std::chrono::steady_clock;

/// Small pictures take steps faster than anybody can watch them.
constexpr std::chrono::milliseconds kStepEvents{50};
constexpr std::chrono::milliseconds kPreviewEvents{250};
constexpr std::chrono::seconds kPreviewsAfterAsking{3};
constexpr int kPreviewQuality = 80;  // of JPEG

double ms_since(steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
}

/// \return whether one of `count` partial images of a picture of `steps` steps comes after its step `step`.
bool is_partial_step(int64_t step, int64_t steps, int64_t count) {
  const auto part = [&](int64_t done) { return done * (count + 1) / steps; };
  return step < steps && part(step) > part(step - 1);
}

std::string encoded(const Image& picture, ImageFormat format, int quality) {
  const std::vector<uint8_t> bytes = encode_image(picture, format, {}, quality);
  return to_base64({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// \return how many pictures may join one that is drawn: none one that the engine refuses, which drawing it will say.
int64_t room_beside(const GenerationRequest& request, const Drawing& drawing) {
  try {
    return drawing.pictures_at_once(request) - request.num_outputs;
  } catch (const Error&) {
    return 0;
  }
}

std::string label(const char* key, std::string_view value) { return fmt::format("{}=\"{}\"", key, value); }

}  // namespace

JobService::JobService(JobStore& store, Metrics& metrics, size_t queue_limit)
    : store_(store), metrics_(metrics), queue_limit_(queue_limit) {
  const std::lock_guard lock(mutex_);
  for (const Job& job : store_.queued()) enqueue(job);
  tell_positions();
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
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) throw overloaded("stopping", "the server is shutting down", 10);
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
  {
    const std::lock_guard lock(mutex_);
    const auto found = live_.find(id);
    if (found == live_.end()) return store_.find(id);
    live = found->second;
    if (live->running) {
      live->cancelled = true;
      live->stop_drawing = true;
      return store_.find(id);
    }
    if (!queue_.remove(id)) return store_.find(id);  // somebody else is cancelling it
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

ordered_json JobService::describe_locked(const Job& job) const {
  const auto found = live_.find(job.id);
  // The store is a little ahead of, or behind, what watchers were told.
  if (found == live_.end() || has_ended(job.status)) return job_json(job, std::nullopt, std::nullopt);
  const Live& live = *found->second;
  Job shown = job;
  shown.status = live.running ? JobStatus::running : JobStatus::queued;
  shown.started_at = live.started_at;
  shown.cut = live.cut;
  if (live.running) return job_json(shown, std::nullopt, live.progress);
  return job_json(shown, std::max<int64_t>(live.position, 0), std::nullopt);
}

ordered_json JobService::describe(const Job& job) {
  const std::lock_guard lock(mutex_);
  return describe_locked(job);
}

std::optional<ordered_json> JobService::describe(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto job = store_.find(id);
  return job ? std::optional(describe_locked(*job)) : std::nullopt;
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
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) {
    if (const auto job = store_.find(id)) watcher.tell({"done", cli::json_line(describe_locked(*job))});
    return 0;
  }
  Live& live = *found->second;
  if (live.running) {
    watcher.tell({"started", cli::json_line({{"id", id}, {"started_at", live.started_at}})});
    watcher.tell({"stage", cli::json_line({{"id", id}, {"stage", live.progress.stage}})});
    if (live.progress.step > 0) {
      ordered_json step{{"id", id}};
      step.update(progress_json(live.progress, live.pictures));
      watcher.tell({"step", cli::json_line(step)});
    }
  } else {
    watcher.tell({"queued", cli::json_line({{"id", id}, {"position", std::max<int64_t>(live.position, 0)}})});
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
  const JobEvent told{event, cli::json_line(data)};
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
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  const std::shared_ptr<Live> live = found->second;
  live_.erase(found);
  std::erase(running_, id);
  const auto job = store_.find(id);
  if (job) tell(*live, "done", job_json(*job, std::nullopt, std::nullopt));
  tell_positions();
  changed_.notify_all();
}

void JobService::run(const Drawing& drawing) {
  try {
    for (;;) {
      std::vector<Turn> turns = take_turns(drawing);
      if (turns.empty()) return;
      draw_together(turns, drawing);
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    running_.clear();  // stop() waits for it
    changed_.notify_all();
    throw;
  }
}

std::vector<JobService::Turn> JobService::take_turns(const Drawing& drawing) {
  std::vector<Turn> turns;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || queue_.size() > 0; });
  if (stopping_) return turns;
  const auto take = [&](const std::string& id) {
    Turn turn{id, live_.at(id)};
    turn.live->running = true;
    turn.live->started_at = unix_now();
    running_.push_back(id);
    tell(*turn.live, "started", {{"id", id}, {"started_at", turn.live->started_at}});
    turns.push_back(std::move(turn));
  };
  take(*queue_.pop());
  const GenerationRequest& first = turns.front().live->request;
  int64_t room = room_beside(first, drawing);
  for (const std::string& id : queue_.order()) {
    const GenerationRequest& request = live_.at(id)->request;
    if (request.num_outputs > room || !drawing.takes_together(first, request)) continue;
    room -= request.num_outputs;
    queue_.remove(id);
    take(id);
  }
  tell_positions();
  return turns;
}

bool JobService::wants_preview(const Live& live, int64_t step) const {
  const std::lock_guard lock(mutex_);
  const auto now = steady_clock::now();
  const bool is_due = now - live.preview_made >= kPreviewEvents;
  if (is_due && now - live.preview_asked < kPreviewsAfterAsking) return true;
  return std::ranges::any_of(live.watchers, [&](const auto& entry) {
    const JobWatcher& watcher = entry.second;
    return (is_due && watcher.previews) || is_partial_step(step, live.steps, watcher.partial_images);
  });
}

void JobService::show_preview(const Job& job, Live& live, const PictureStep& at, const Image& picture) {
  const auto is_for_partial = [&](const JobWatcher& watcher) {
    return is_partial_step(at.step, live.steps, watcher.partial_images);
  };
  bool has_partial = false, has_live = false;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [watch, watcher] : live.watchers) {
      has_partial |= is_for_partial(watcher);
      has_live |= watcher.previews;
    }
  }
  std::string preview, partial;
  if (has_live) {
    const std::string url = "data:image/jpeg;base64," + encoded(picture, ImageFormat::jpeg, kPreviewQuality);
    preview = cli::json_line({{"id", job.id}, {"picture", at.picture + 1}, {"step", at.step}, {"image", url}});
  }
  if (has_partial) partial = encoded(picture, job.order.format, job.order.quality);
  const std::lock_guard lock(mutex_);
  live.preview = std::make_shared<const Image>(picture);
  live.preview_made = steady_clock::now();
  for (const auto& [watch, watcher] : live.watchers) {
    if (watcher.previews && has_live) watcher.tell({"preview", preview});
    if (is_for_partial(watcher) && has_partial) watcher.tell({"partial", partial});
  }
}

Progress JobService::progress_of(const Job& job, Live& live) {
  const std::string& id = job.id;
  Progress progress;
  progress.cancel = &live.stop_drawing;
  progress.on_stage = [this, id, &live](const char* stage) {
    const std::lock_guard lock(mutex_);
    live.progress.stage = stage;
    tell(live, "stage", {{"id", id}, {"stage", stage}});
  };
  progress.on_prompts = [this, id, &live](PromptsCut cut) {
    for (const std::string& warning : cli::cut_warnings(live.request, cut))
      log_json(LogLevel::warning, warning, {{"job", id}});
    const std::lock_guard lock(mutex_);
    live.cut = cut;
  };
  progress.on_step = [this, id, &live](int64_t step, int64_t steps, double step_ms) {
    metrics_.add("nostos_steps_total");
    metrics_.observe("nostos_step_seconds", {}, step_ms / 1000);
    const std::lock_guard lock(mutex_);
    live.progress.step = step;
    live.progress.steps = steps;
    // The first step of a size prepares kernels, so that later ones say more; their mean forgets it.
    live.progress.step_ms = step <= 2 ? step_ms : 0.7 * live.progress.step_ms + 0.3 * step_ms;
    live.progress.eta_s = live.progress.step_ms / 1000 * static_cast<double>(steps - step);
    const auto now = steady_clock::now();
    if (step < steps && now - live.step_told < kStepEvents) return;
    live.step_told = now;
    ordered_json data{{"id", id}};
    data.update(progress_json(live.progress, live.pictures));
    tell(live, "step", data);
  };
  progress.wants_preview = [this, &live](const PictureStep& at) { return wants_preview(live, at.step); };
  progress.on_preview = [this, &job, &live](const PictureStep& at, const Image& picture) {
    show_preview(job, live, at, picture);
  };
  return progress;
}

std::vector<JobImage> JobService::write_pictures(const Job& job, const Generation& generation, double& encode_ms) {
  std::vector<JobImage> images;
  for (const Picture& picture : generation.pictures) {
    cli::DrawingRecord record = job.order.record;
    record.request.seed = picture.seed;
    record.request.num_outputs = 1;
    const auto start = steady_clock::now();
    const std::vector<uint8_t> bytes =
        encode_image(picture.image, job.order.format, cli::text_chunks(record), job.order.quality);
    encode_ms += ms_since(start);
    // The same name at a second attempt, so that nothing is left of the first.
    const JobImage image{.id = fmt::format("img_{}_{}", job.id.substr(job.id.find('_') + 1), images.size()),
                         .seed = picture.seed,
                         .width = picture.image.width,
                         .height = picture.image.height,
                         .format = job.order.format,
                         .bytes = bytes.size()};
    // The client of an attached job has the picture itself, and does not wait for the disk.
    write_file_atomically(store_.image_file(image), bytes, job.attached ? Survives::process : Survives::machine);
    images.push_back(image);
  }
  return images;
}

template <class Work>
void JobService::guarded(Turn& turn, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    turn.status = error.kind() == ErrorKind::cancelled ? JobStatus::cancelled : JobStatus::failed;
    turn.error = error.what();
  } catch (const std::bad_alloc&) {
    turn.status = JobStatus::failed;
    turn.error = "out of memory";
  } catch (const std::exception& error) {
    turn.status = JobStatus::failed;
    turn.error = error.what();
  }
}

void JobService::begin(Turn& turn) {
  store_.set_running(turn.id);
  const auto job = store_.find(turn.id);
  check(job.has_value(), "a job that runs is in the store");
  turn.job = *job;
  for (const std::string& warning : cli::network_warnings(job->order.record.request))
    log_json(LogLevel::warning, warning, {{"job", turn.id}});
  turn.queue_ms = (job->started_at - job->created_at) * 1000;
  metrics_.observe("nostos_job_queue_seconds", {}, turn.queue_ms / 1000);
}

void JobService::draw_together(std::span<Turn> turns, const Drawing& drawing) {
  std::vector<GenerationRequest> requests;
  std::vector<Progress> progress;
  std::vector<Turn*> drawn;
  for (Turn& turn : turns) {
    turn.start = steady_clock::now();
    guarded(turn, [&] {
      if (turn.job.id.empty()) begin(turn);  // one that is drawn again, alone, was begun with the others
      requests.push_back(turn.live->request);
      progress.push_back(progress_of(turn.job, *turn.live));
      drawn.push_back(&turn);
    });
  }
  std::vector<Generation> made;
  std::exception_ptr failure;
  const auto asked = steady_clock::now();
  try {
    if (!drawn.empty()) made = drawing.draw(requests, progress);
  } catch (...) {
    failure = std::current_exception();
  }
  const double engine_ms = ms_since(asked);
  bool is_fatal = false;
  for (size_t i = 0; i < drawn.size(); ++i) {
    Turn& turn = *drawn[i];
    guarded(turn, [&] {
      try {
        if (failure) std::rethrow_exception(failure);
        require(!made[i].cancelled, ErrorKind::cancelled, "cancelled");
        finish(turn, made[i], engine_ms);
      } catch (const Error& error) {
        is_fatal = is_fatal || ends_process(error.kind());
        throw;
      }
    });
  }
  // What fails several may be the fault, or the size, of one.
  const bool again = failure && !is_fatal && drawn.size() > 1 && drawn.front()->status == JobStatus::failed;
  if (again) {
    for (Turn* turn : drawn) {
      turn->status = JobStatus::running;
      turn->error.clear();
      draw_together({turn, 1}, drawing);
    }
  }
  for (Turn& turn : turns) {
    if (!again || std::ranges::find(drawn, &turn) == drawn.end()) leave(turn, turns.size());
  }
  if (is_fatal) std::rethrow_exception(failure);
}

void JobService::finish(Turn& turn, const Generation& generation, double engine_ms) {
  double encode_ms = 0;
  const std::vector<JobImage> images = write_pictures(turn.job, generation, encode_ms);
  ordered_json stages = ordered_json::array();
  for (const StageTime& stage : generation.report.stages) {
    stages.push_back({{"name", stage.name}, {"ms", stage.ms}});
    metrics_.observe("nostos_stage_seconds", label("stage", stage.name), stage.ms / 1000);
  }
  metrics_.observe("nostos_stage_seconds", label("stage", "encode"), encode_ms / 1000);
  const ordered_json timings{{"queue_ms", turn.queue_ms},
                             {"engine_ms", engine_ms},
                             {"encode_ms", encode_ms},
                             {"total_ms", ms_since(turn.start)},
                             {"stages", stages}};
  turn.job.cut = generation.cut;
  store_.set_completed(turn.job, images, cli::json_line(timings));
  turn.status = JobStatus::completed;
}

void JobService::leave(const Turn& turn, size_t together) {
  const Live& live = *turn.live;
  if (turn.status == JobStatus::cancelled && !live.attached) {
    std::unique_lock lock(mutex_);
    if (stopping_ && !live.cancelled) {
      store_.set_queued(turn.id);
      turn.live->running = false;
      std::erase(running_, turn.id);
      changed_.notify_all();
      return;
    }
  }
  if (turn.status != JobStatus::completed) store_.set_ended(turn.id, turn.status, turn.error);
  metrics_.add("nostos_jobs_total", label("status", name(turn.status)));
  metrics_.observe("nostos_job_seconds", label("status", name(turn.status)), ms_since(turn.start) / 1000);
  log_json(turn.status == JobStatus::failed ? LogLevel::error : LogLevel::info, "job ended",
           {{"job", turn.id},
            {"status", name(turn.status)},
            {"ms", ms_since(turn.start)},
            {"together", together},
            {"error", turn.error}});
  end(turn.id);
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
