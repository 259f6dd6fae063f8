// Owns what a job is: what was asked, how far it is, and what came of it.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/server/client_defaults.h"
#include "io/image.h"
#include "pipeline/generation.h"
#include "pipeline/record.h"

namespace nostos::server {

enum class JobStatus { queued, running, completed, failed, cancelled };

/// \return the status as the API spells it.
const char* name(JobStatus status);
/// \return the status of that name, or nothing.
std::optional<JobStatus> parse_status(std::string_view text);
/// \return whether nothing more will happen to such a job.
inline bool has_ended(JobStatus status) { return status != JobStatus::queued && status != JobStatus::running; }

/// \return "png", "jpeg" or "webp".
const char* name(ImageFormat format);
/// \return the format of that name, or nothing.
std::optional<ImageFormat> parse_format(std::string_view text);

/// What a client asks to be drawn, checked.
struct DrawingOrder {
  DrawingRecord record;  ///< all optionals set; num_outputs pictures
  ImageFormat format = ImageFormat::png;
  int quality = 95;  ///< of JPEG and WebP
  /// Files of the record's images, on their way into the store; empty in jobs that come from there.
  std::vector<std::shared_ptr<const std::string>> references{};
  std::shared_ptr<const std::string> mask{};     ///< likewise, of the record's mask; null without one
  std::shared_ptr<const std::string> control{};  ///< likewise, of the record's control image
  std::vector<ChangedSetting> changes{};         ///< of what was asked; not stored, for the record has what is drawn
};

struct JobImage {
  std::string id;
  uint64_t seed = 0;
  int64_t width = 0, height = 0;
  ImageFormat format = ImageFormat::png;
  uint64_t bytes = 0;
};

struct Job {
  std::string id;
  JobStatus status = JobStatus::queued;
  DrawingOrder order{};
  std::string client{};           ///< whose turn it takes
  std::string idempotency_key{};  ///< with the client, whose own it is; or empty
  std::string body{};     ///< of the request, with such a key alone: what comes with the key again must be the same
  bool attached = false;  ///< a connection waits for it: without that it is of no use
  int attempts = 0;       ///< how often it was begun
  double created_at = 0, started_at = 0, finished_at = 0;  ///< Unix seconds; 0: not yet
  std::vector<JobImage> images{};
  std::string error{};    ///< of a failed or cancelled one
  std::string timings{};  ///< JSON, once completed
  PromptsCut cut{};       ///< known once it was begun
};

/// How far a running job is.
struct JobProgress {
  std::string stage = "text";
  int64_t step = 0, steps = 0;  ///< of all pictures
  double step_ms = 0;
  std::optional<double> eta_s{};
  std::vector<int> places{};  ///< that draw it; empty where all draw every job
};

/// \return Unix time in seconds.
double unix_now();

/// \return the fields of JobProgress as events and the job object show them: steps of all the pictures.
nlohmann::ordered_json progress_json(const JobProgress& progress, int64_t pictures);

/// \return what every API says of a job's prompts: whether they were cut, and in words what else is not as asked for.
nlohmann::ordered_json prompts_json(const Job& job);

/// \return the job object of the API. \param position of a queued job \param progress of a running one
nlohmann::ordered_json job_json(const Job& job, std::optional<int64_t> position,
                                const std::optional<JobProgress>& progress);

}  // namespace nostos::server
