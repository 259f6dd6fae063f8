// Implements the drawing of jobs.
#include "apps/server/job_runner.h"

#include <algorithm>
#include <future>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ranges>
#include <utility>

#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "base/elapsed.h"
#include "base/error.h"
#include "base/sha256.h"
#include "io/file.h"
#include "io/json_text.h"
#include "pipeline/request_warnings.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;
using std::chrono::steady_clock;

constexpr int kPreviewQuality = 80;  // of JPEG

std::string encoded(const Image& picture, ImageFormat format, int quality) {
  const std::vector<uint8_t> bytes = encode_image(picture, format, {}, quality);
  return to_base64({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// Reads the images, masks and control images of requests that are drawn together, each picture once.
class References {
 public:
  explicit References(const JobStore& store) : store_(store) {}

  /// \return the job's request with the pixels of its images. \throws Error invalid_input if a file is not there
  GenerationRequest loaded(const std::string& job, GenerationRequest request) {
    for (size_t i = 0; i < request.images.size(); ++i)
      load(job, fmt::format("image[{}]", i), request.images[i], [&] { return store_.read_reference(job, i); });
    if (request.mask) load(job, "mask", request.mask->image, [&] { return store_.read_mask(job); });
    if (request.control && request.control->image)
      load(job, "control.image", *request.control->image, [&] { return store_.read_control(job); });
    return request;
  }

 private:
  /// Gives the picture its pixels. \param read gives its file
  template <class Read>
  void load(const std::string& job, const std::string& field, ReferenceImage& picture, const Read& read) {
    std::shared_ptr<const Image>& known = known_[picture.sha256];
    if (known == nullptr) {
      const std::string text = file_of(job, field, read);
      const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
      require(sha256(bytes) == picture.sha256, ErrorKind::invalid_input,
              "{} is not the picture that the client sent: its file was changed", field);
      known = std::make_shared<const Image>(decode_image(bytes));
    }
    picture.image = known;
  }

  /// The client is told which picture is missing, and the log where it was.
  template <class Read>
  std::string file_of(const std::string& job, const std::string& field, const Read& read) const {
    try {
      return read();
    } catch (const Error& error) {
      log_json(LogLevel::error, "picture not read", {{"job", job}, {"error", error.what()}});
      fail(ErrorKind::invalid_input, "{} is not there any more: its file was removed, or cannot be read", field);
    }
  }

  const JobStore& store_;
  std::map<std::string, std::shared_ptr<const Image>> known_;  ///< by their hashes
};

}  // namespace

JobRunner::JobRunner(JobStore& store, Metrics& metrics, JobBoard& board,
                     std::function<void(const std::string& id)> cancel)
    : store_(store), metrics_(metrics), board_(board), cancel_(std::move(cancel)) {}

void JobRunner::run(const EngineCalls& engine) {
  board_.open(engine);
  std::vector<std::future<void>> threads;
  std::exception_ptr failure;
  try {
    for (int i = 1; i < engine.places; ++i)
      threads.push_back(std::async(std::launch::async, [&] { draw_lanes(engine); }));
    draw_lanes(engine);
  } catch (...) {
    failure = std::current_exception();
    board_.give_up();
  }
  for (std::future<void>& thread : threads) {
    try {
      thread.get();
    } catch (...) {
      if (!failure) failure = std::current_exception();
    }
  }
  if (!failure) return;
  board_.abandon_turns();  // stop() waits for them
  std::rethrow_exception(failure);
}

void JobRunner::draw_lanes(const EngineCalls& engine) {
  try {
    for (;;) {
      const TakenLane taken = board_.take_turns([this] { return !store_.trouble(); });
      if (taken.jobs.empty()) return;
      std::vector<Turn> turns;
      for (const std::shared_ptr<LiveJob>& live : taken.jobs) turns.push_back({.live = live});
      DrawnLane lane(board_, metrics_, engine, taken);
      draw_together(turns, lane, engine);
    }
  } catch (...) {
    board_.give_up();
    throw;
  }
}

void JobRunner::show_preview(const Turn& turn, const PictureStep& at, const Image& picture) {
  const JobBoard::PreviewWishes wishes = board_.preview_wishes(*turn.live, at.step);
  std::string preview, partial;
  if (wishes.previews) {
    const std::string url = "data:image/jpeg;base64," + encoded(picture, ImageFormat::jpeg, kPreviewQuality);
    preview = json_line({{"id", turn.live->id}, {"picture", at.picture + 1}, {"step", at.step}, {"image", url}});
  }
  if (wishes.partial_images) partial = encoded(picture, turn.job.order.format, turn.job.order.quality);
  board_.show_preview(*turn.live, at.step, picture, preview, partial);
}

Progress JobRunner::progress_of(const Turn& turn) {
  LiveJob& live = *turn.live;
  Progress progress;
  progress.cancel = &live.stop_drawing;
  progress.on_stage = [this, &live](const char* stage) { board_.set_stage(live, stage); };
  progress.on_prompts = [this, &live](PromptsCut cut) {
    for (const std::string& warning : cut_warnings(live.request, cut))
      log_json(LogLevel::warning, warning, {{"job", live.id}});
    board_.set_cut(live, cut);
  };
  progress.on_step = [this, &live](int64_t step, int64_t steps, double step_ms) {
    metrics_.add("nostos_steps_total");
    metrics_.observe("nostos_step_seconds", {}, step_ms / 1000);
    board_.set_step(live, step, steps, step_ms);
  };
  progress.wants_preview = [this, &live](const PictureStep& at) { return board_.wants_preview(live, at.step); };
  progress.on_preview = [this, &turn](const PictureStep& at, const Image& picture) { show_preview(turn, at, picture); };
  return progress;
}

void JobRunner::write_pictures(const Job& job, const Generation& generation, std::vector<JobImage>& images,
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
void JobRunner::guarded(Turn& turn, const Work& work) {
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

void JobRunner::begin(Turn& turn) {
  const std::string& id = turn.live->id;
  store_.set_running(id);
  const auto job = store_.find(id);
  check(job.has_value(), "a job that runs is in the store");
  turn.job = *job;
  const DrawingRecord& record = job->order.record;
  for (const auto& warnings : {network_warnings(record.request), guidance_warnings(record.request, record.guidance)}) {
    for (const std::string& warning : warnings) log_json(LogLevel::warning, warning, {{"job", id}});
  }
  turn.queue_ms = (job->started_at - job->created_at) * 1000;
  metrics_.observe("nostos_job_queue_seconds", {}, turn.queue_ms / 1000);
}

void JobRunner::draw_together(std::span<Turn> turns, DrawnLane& lane, const EngineCalls& engine) {
  std::vector<GenerationRequest> requests;
  std::vector<Progress> progress;
  std::vector<Turn*> drawn;
  References references(store_);
  for (Turn& turn : turns) {
    turn.start = steady_clock::now();
    guarded(turn, [&] {
      if (turn.job.id.empty()) begin(turn);  // one that is drawn again, alone, was begun with the others
      requests.push_back(references.loaded(turn.live->id, turn.live->request));
      progress.push_back(progress_of(turn));
      drawn.push_back(&turn);
    });
  }
  std::vector<Generation> made;
  std::exception_ptr failure;
  const auto asked = steady_clock::now();
  try {
    if (!drawn.empty()) made = lane.draw(requests, progress);
  } catch (...) {
    failure = std::current_exception();
  }
  if (!made.empty()) {
    // Those of the drawing, which every request's report has.
    for (const StageTime& stage : made.front().report.stages)
      metrics_.observe("nostos_stage_seconds", label("stage", stage.name), stage.ms / 1000);
  }
  const bool goes_on = failure && lost_some_places(failure, engine);
  const bool is_fatal = finish_all(drawn, made, failure, ms_since(asked)) && !goes_on;
  for (Turn* turn : drawn) {
    // One that has every device fail must not have the last.
    if (goes_on && board_.lost_places_first(*turn->live)) turn->status = JobStatus::queued;
  }
  // What fails several may be the fault, or the size, of one.
  const bool again = failure && !is_fatal && !goes_on && drawn.size() > 1 && drawn.front()->status == JobStatus::failed;
  if (again) {
    for (Turn* turn : drawn) {
      turn->status = JobStatus::running;
      turn->error.clear();
      draw_together({turn, 1}, lane, engine);
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

bool JobRunner::lost_some_places(const std::exception_ptr& failure, const EngineCalls& engine) {
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    if (!ends_process(error.kind())) return false;
    const std::vector<int> lost = engine.lost_places();
    if (lost.empty() || std::cmp_equal(lost.size(), engine.places)) return false;
    board_.lose_places(lost);
    log_json(LogLevel::error, "GPU lost", {{"places", lost}, {"error", error.what()}});
    return true;
  } catch (...) {
    return false;
  }
}

bool JobRunner::finish_all(std::span<Turn* const> drawn, const std::vector<Generation>& made,
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

void JobRunner::finish(Turn& turn, const Generation& generation, double engine_ms) {
  std::vector<JobImage> images;
  try {
    double encode_ms = 0;
    write_pictures(turn.job, generation, images, encode_ms);
    ordered_json stages = ordered_json::array();
    for (const StageTime& stage : generation.report.stages) stages.push_back({{"name", stage.name}, {"ms", stage.ms}});
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
  } catch (...) {
    store_.remove_images(images, 0);
    throw;
  }
  turn.status = JobStatus::completed;
}

void JobRunner::put_back(const Turn& turn) {
  const bool was_begun = !turn.job.id.empty();
  try {
    if (was_begun) store_.set_queued(turn.live->id);
  } catch (const StorageError&) {
    // The store says that it runs, which the next start takes for the same.
  }
  if (board_.put_back(*turn.live)) cancel_(turn.live->id);
}

void JobRunner::leave(const Turn& turn, size_t together) {
  const std::string& id = turn.live->id;
  if (turn.status == JobStatus::queued || (turn.status == JobStatus::cancelled && board_.was_interrupted(*turn.live))) {
    if (!turn.error.empty()) log_json(LogLevel::warning, "job put back", {{"job", id}, {"error", turn.error}});
    return put_back(turn);
  }
  if (turn.status != JobStatus::completed) store_.set_ended(id, turn.status, turn.error);
  metrics_.add("nostos_jobs_total", label("status", name(turn.status)));
  metrics_.observe("nostos_job_seconds", label("status", name(turn.status)), ms_since(turn.start) / 1000);
  log_json(turn.status == JobStatus::failed ? LogLevel::error : LogLevel::info, "job ended",
           {{"job", id},
            {"status", name(turn.status)},
            {"ms", ms_since(turn.start)},
            {"together", together},
            {"error", turn.error}});
  board_.end(id, store_.find(id));
}

}  // namespace nostos::server
