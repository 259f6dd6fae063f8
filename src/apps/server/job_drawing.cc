// Implements the drawing of jobs: whose turn it is, how far they are, and what is kept of them.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <ranges>
#include <utility>

#include "apps/server/identifiers.h"
#include "apps/server/job_service.h"
#include "apps/server/json_log.h"
#include "base/error.h"
#include "io/file.h"
#include "io/json_text.h"
#include "pipeline/request_warnings.h"

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

}  // namespace

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
  changed_.wait(lock, [this] { return stopping_ || (queue_.size() > 0 && !store_.trouble()); });
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
    preview = json_line({{"id", job.id}, {"picture", at.picture + 1}, {"step", at.step}, {"image", url}});
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
    for (const std::string& warning : cut_warnings(live.request, cut))
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

void JobService::write_pictures(const Job& job, const Generation& generation, std::vector<JobImage>& images,
                                double& encode_ms) {
  for (const Picture& picture : generation.pictures) {
    DrawingRecord record = job.order.record;
    record.request.seed = picture.seed;
    record.request.num_outputs = 1;
    const auto start = steady_clock::now();
    const std::vector<uint8_t> bytes =
        encode_image(picture.image, job.order.format, text_chunks(record), job.order.quality);
    encode_ms += ms_since(start);
    // The same name at a second attempt, so that nothing is left of the first.
    const JobImage image{.id = fmt::format("img_{}_{}", job.id.substr(job.id.find('_') + 1), images.size()),
                         .seed = picture.seed,
                         .width = picture.image.width,
                         .height = picture.image.height,
                         .format = job.order.format,
                         .bytes = bytes.size()};
    images.push_back(image);
    // The client of an attached job has the picture itself, and does not wait for the disk.
    store_.write_image(image, bytes, job.attached ? Survives::process : Survives::machine);
  }
}

template <class Work>
void JobService::guarded(Turn& turn, const Work& work) {
  const auto end = [&turn](JobStatus status, const char* error) {
    turn.status = status;
    turn.error = error;
  };
  try {
    return work();
  } catch (const StorageError& error) {
    // A client that waits is better told than kept; the others' jobs were promised to be drawn.
    end(turn.live->attached ? JobStatus::failed : JobStatus::queued, error.what());
  } catch (const Error& error) {
    end(error.kind() == ErrorKind::cancelled ? JobStatus::cancelled : JobStatus::failed, error.what());
  } catch (const std::bad_alloc&) {
    end(JobStatus::failed, "out of memory");
  } catch (const std::exception& error) {
    end(JobStatus::failed, error.what());
  }
}

void JobService::begin(Turn& turn) {
  store_.set_running(turn.id);
  const auto job = store_.find(turn.id);
  check(job.has_value(), "a job that runs is in the store");
  turn.job = *job;
  for (const std::string& warning : network_warnings(job->order.record.request))
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
  const bool is_fatal = finish_all(drawn, made, failure, ms_since(asked));
  // What fails several may be the fault, or the size, of one.
  const bool again = failure && !is_fatal && drawn.size() > 1 && drawn.front()->status == JobStatus::failed;
  if (again) {
    for (Turn* turn : drawn) {
      turn->status = JobStatus::running;
      turn->error.clear();
      draw_together({turn, 1}, drawing);
    }
  }
  const auto leave_if = [&](Turn& turn, bool goes_back) {
    const bool has_left = again && std::ranges::find(drawn, &turn) != drawn.end();
    if (!has_left && goes_back == (turn.status == JobStatus::queued)) leave(turn, turns.size());
  };
  for (Turn& turn : turns) leave_if(turn, false);
  // From the last, each in front of those that are back.
  for (Turn& turn : turns | std::views::reverse) leave_if(turn, true);
  if (is_fatal) std::rethrow_exception(failure);
}

bool JobService::finish_all(std::span<Turn* const> drawn, const std::vector<Generation>& made,
                            const std::exception_ptr& failure, double engine_ms) {
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
  return is_fatal;
}

void JobService::finish(Turn& turn, const Generation& generation, double engine_ms) {
  std::vector<JobImage> images;
  try {
    double encode_ms = 0;
    write_pictures(turn.job, generation, images, encode_ms);
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
    store_.set_completed(turn.job, images, json_line(timings));
  } catch (const StorageError&) {
    // Begun again only where all of them will have space, and as much again for what others write meanwhile.
    uint64_t largest = 0;
    for (const JobImage& image : images) largest = std::max(largest, image.bytes);
    store_.remove_images(images, 2 * largest * generation.pictures.size());
    throw;
  }
  turn.status = JobStatus::completed;
}

void JobService::put_back(const Turn& turn) {
  const bool was_begun = !turn.job.id.empty();
  try {
    if (was_begun) store_.set_queued(turn.id);
  } catch (const StorageError&) {
    // The store says that it runs, which the next start takes for the same.
  }
  std::unique_lock lock(mutex_);
  Live& live = *turn.live;
  live.running = false;
  live.stop_drawing = false;
  live.position = -1;
  live.started_at = 0;
  live.preview = nullptr;
  live.progress = {.steps = live.progress.steps};
  std::erase(running_, turn.id);
  queue_.put_back(live.client, turn.id);
  tell_positions();
  changed_.notify_all();
  if (!std::exchange(live.cancelled, false)) return;
  lock.unlock();
  cancel(turn.id);
}

void JobService::leave(const Turn& turn, size_t together) {
  bool goes_back = turn.status == JobStatus::queued;
  {
    const std::lock_guard lock(mutex_);
    const Live& live = *turn.live;
    goes_back |= turn.status == JobStatus::cancelled && !live.attached && stopping_ && !live.cancelled;
  }
  if (goes_back) {
    if (!turn.error.empty()) log_json(LogLevel::warning, "job put back", {{"job", turn.id}, {"error", turn.error}});
    return put_back(turn);
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

}  // namespace nostos::server
