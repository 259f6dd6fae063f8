// Implements the job object of the API.
#include "apps/server/job.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "pipeline/request_warnings.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

constexpr std::array<std::pair<JobStatus, const char*>, 5> kStatuses{{{JobStatus::queued, "queued"},
                                                                      {JobStatus::running, "running"},
                                                                      {JobStatus::completed, "completed"},
                                                                      {JobStatus::failed, "failed"},
                                                                      {JobStatus::cancelled, "cancelled"}}};
constexpr std::array<std::pair<ImageFormat, const char*>, 3> kFormats{
    {{ImageFormat::png, "png"}, {ImageFormat::jpeg, "jpeg"}, {ImageFormat::webp, "webp"}}};

template <class Table, class Value>
const char* name_in(const Table& table, Value value) {
  for (const auto& [known, text] : table) {
    if (known == value) return text;
  }
  return "unknown";
}

template <class Table>
auto find_in(const Table& table, std::string_view text) {
  std::optional<decltype(table[0].first)> found;
  for (const auto& [known, known_text] : table) {
    if (text == known_text) found.emplace(known);
  }
  return found;
}

ordered_json image_json(const ReferenceImage& image) {
  return {{"file", image.file}, {"sha256", image.sha256}, {"width", image.size.width}, {"height", image.size.height}};
}

ordered_json images_json(const std::vector<ReferenceImage>& images) {
  ordered_json json = ordered_json::array();
  for (const ReferenceImage& image : images) json.push_back(image_json(image));
  return json;
}

/// \return what a request says of the image that the drawing begins with; null of one that begins with none.
ordered_json source_json(const GenerationRequest& request) {
  ordered_json json{{"strength", nullptr}, {"image_fit", nullptr}, {"mask", nullptr}};
  if (request.strength || request.control) json["image_fit"] = name(request.image_fit);
  if (!request.strength) return json;
  json["strength"] = *request.strength;
  if (!request.mask) return json;
  json["mask"] = image_json(request.mask->image);
  json["mask"]["blur"] = request.mask->blur;
  return json;
}

/// \return what a request says of control; null of one without.
ordered_json control_json(const GenerationRequest& request) {
  if (!request.control) return {};
  const Control& control = *request.control;
  ordered_json json{{"image", control.image ? image_json(*control.image) : ordered_json()}};
  json["scale"] = control.scale;
  json["start"] = control.start;
  json["end"] = control.end;
  json["preprocessor"] = name(control.preprocessor);
  return json;
}

ordered_json time_or_null(double seconds) { return seconds > 0 ? ordered_json(seconds) : ordered_json(); }

}  // namespace

const char* name(JobStatus status) { return name_in(kStatuses, status); }
std::optional<JobStatus> parse_status(std::string_view text) { return find_in(kStatuses, text); }
const char* name(ImageFormat format) { return name_in(kFormats, format); }
std::optional<ImageFormat> parse_format(std::string_view text) { return find_in(kFormats, text); }

double unix_now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

ordered_json progress_json(const JobProgress& progress, int64_t pictures) {
  ordered_json json{{"pictures", pictures},
                    {"step", progress.step},
                    {"steps", progress.steps},
                    {"step_ms", progress.step_ms},
                    {"eta_s", progress.eta_s ? ordered_json(*progress.eta_s) : ordered_json()}};
  if (!progress.places.empty()) json["places"] = progress.places;
  return json;
}

ordered_json prompts_json(const Job& job) {
  const DrawingRecord& record = job.order.record;
  ordered_json warnings = ordered_json::array();
  for (const ChangedSetting& change : job.order.changes) warnings.push_back(change_warning(change));
  for (const auto& some : {network_warnings(record.request), guidance_warnings(record.request, record.guidance),
                           control_warnings(record.request), cut_warnings(record.request, job.cut)})
    std::ranges::copy(some, std::back_inserter(warnings));
  return {{"prompt_truncated", job.cut.prompt},
          {"negative_prompt_truncated", job.cut.negative},
          {"warnings", std::move(warnings)}};
}

ordered_json job_json(const Job& job, std::optional<int64_t> position, const std::optional<JobProgress>& progress) {
  const GenerationRequest& r = job.order.record.request;
  ordered_json images = ordered_json::array();
  for (const JobImage& image : job.images) {
    images.push_back({{"id", image.id},
                      {"url", "/v1/images/" + image.id},
                      {"seed", image.seed},
                      {"width", image.width},
                      {"height", image.height},
                      {"format", name(image.format)},
                      {"bytes", image.bytes}});
  }
  const ordered_json source = source_json(r);
  ordered_json loras = ordered_json::array();
  for (const AdapterUse& use : r.adapters)
    loras.push_back({{"name", use.name}, {"scale", use.scale}, {"sha256", use.sha256}});
  ordered_json progress_or_null;
  if (progress) {
    progress_or_null = {{"stage", progress->stage}};
    progress_or_null.update(progress_json(*progress, r.num_outputs));
  }
  ordered_json error;
  if (job.status == JobStatus::failed) error = {{"message", job.error}, {"type", "server_error"}, {"code", nullptr}};
  ordered_json json{
      {"id", job.id},
      {"object", "job"},
      {"status", name(job.status)},
      {"created_at", job.created_at},
      {"started_at", time_or_null(job.started_at)},
      {"finished_at", time_or_null(job.finished_at)},
      {"position", position ? ordered_json(*position) : ordered_json()},
      {"progress", progress_or_null},
      {"request",
       {{"prompt", r.prompt},
        {"negative_prompt", r.negative_prompt},
        {"image", images_json(r.images)},
        {"strength", source["strength"]},
        {"image_fit", source["image_fit"]},
        {"mask", source["mask"]},
        {"control", control_json(r)},
        {"loras", loras},
        {"width", r.width.value()},
        {"height", r.height.value()},
        {"num_inference_steps", r.num_inference_steps.value()},
        {"guidance_scale", r.guidance_scale.value()},
        {"cfg_normalization", r.cfg_normalization},
        {"cfg_truncation", r.cfg_truncation},
        {"seed", r.seed},
        {"max_sequence_length", r.max_sequence_length ? ordered_json(*r.max_sequence_length) : ordered_json()},
        {"n", r.num_outputs},
        {"output_format", name(job.order.format)},
        {"output_compression", job.order.quality}}},
      {"images", images},
      {"error", error},
      {"timings", job.timings.empty() ? ordered_json() : ordered_json::parse(job.timings)}};
  json.update(prompts_json(job));
  return json;
}

}  // namespace nostos::server
