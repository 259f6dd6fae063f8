// Implements the pipelines of nostos.h: an engine, and drawings that take turns.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <mutex>
#include <nlohmann/json.hpp>

#include "api/adapter_hashes.h"
#include "api/drawing_json.h"
#include "api/handles.h"
#include "api/input_files.h"
#include "api/model_places.h"
#include "api/result.h"
#include "base/elapsed.h"
#include "base/log.h"
#include "io/json_text.h"
#include "io/model_folder.h"
#include "pipeline/device_choice.h"
#include "pipeline/request_warnings.h"

namespace nostos::api {
namespace {

using Clock = std::chrono::steady_clock;

void warn(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) log_message(LogLevel::warning, warning);
}

/// Says what will not be drawn as the request may expect. \param asked as it was given \param resolved the same
void warn_of(const GenerationRequest& asked, const GenerationRequest& resolved, GuidanceForm guidance) {
  warn(network_warnings(resolved));
  warn(control_warnings(resolved));
  GuidanceWords words;
  if (!asked.guidance_scale) words.scale.clear();
  if (asked.negative_prompt.empty()) words.negative_prompt.clear();
  if (asked.cfg_normalization == 0) words.cfg_normalization.clear();
  warn(guidance_warnings(resolved, guidance, words));
}

/// Ends the drawing if a caller's function wishes so. \throws Error cancelled
void heed(int answer) { require(answer == 0, ErrorKind::cancelled, "a callback ended the drawing"); }

Progress progress_of(const nostos_request& request, const GenerationRequest& drawn) {
  Progress progress;
  progress.cancel = request.cancel.get();
  progress.on_prompts = [&drawn](PromptsCut cut) { warn(cut_warnings(drawn, cut)); };
  if (const auto call = request.on_stage; call.function != nullptr)
    progress.on_stage = [call](const char* stage) { heed(call.function(call.user, stage)); };
  if (const auto call = request.on_step; call.function != nullptr)
    progress.on_step = [call](int64_t step, int64_t steps, double step_ms) {
      heed(call.function(call.user, step, steps, step_ms));
    };
  if (const auto call = request.on_preview; call.function != nullptr) {
    progress.wants_preview = [](const PictureStep&) { return true; };
    progress.on_preview = [call](const PictureStep& step, const Image& image) {
      heed(call.function(call.user, step.picture, step.step, {image.rgb.data(), image.height, image.width}));
    };
  }
  return progress;
}

EngineOptions engine_options(const nostos_options& given, const std::string& model_path) {
  EngineOptions options =
      undirected_options(given.engine, resolve_parallelism(given.engine, given.engine.num_gpus, "num_gpus"));
  const DeviceChoice choice =
      choose_device(given.engine.device, {.ranks = options.parallelism.ranks(),
                                          .may_share_gpu = given.engine.allow_shared_gpu,
                                          .is_shown_one = std::getenv("CUDA_VISIBLE_DEVICES") != nullptr});
  options.device = choice.device;
  options.device_per_rank = choice.per_rank;
  options.threads = static_cast<int>(given.engine.threads);
  if (given.cache_dir) options.cache_folder = *given.cache_dir;
  options.model = model_files(model_path, given.parts, given.models_dir);
  options.variant = given.variant;
  options.file_hashes = std::make_shared<FileHashes>();
  return options;
}

}  // namespace
}  // namespace nostos::api

/// Fields are in the order in which they are needed; the engine, which logs, ends first.
struct nostos_pipeline {
  explicit nostos_pipeline(const nostos_options& given);
  ~nostos_pipeline() {
    const nostos::LogTo to(&log);
    engine.reset();
  }

  /// Draws when it is the request's turn. \throws Error cancelled, and what Engine::generate() throws
  std::unique_ptr<nostos_result> draw(const nostos_request& request);

  nostos::LogTarget log;
  nostos::DrawingRecord record;  ///< of no request
  nostos::EngineOptions options;
  std::unique_ptr<nostos::Engine> engine;
  double start_ms = 0;
  std::string info;
  std::timed_mutex turn;
};

namespace nostos::api {
namespace {

std::string info_of(const nostos_pipeline& pipeline) {
  const ModelLimits& limits = pipeline.engine->limits();
  return json_pretty({{"version", NOSTOS_VERSION},
                      {"model", pipeline.record.model_name},
                      {"device", to_string(pipeline.options.device)},
                      {"ranks", pipeline.options.parallelism.ranks()},
                      {"precision", pipeline.engine->precision_name()},
                      {"size_multiple", limits.size_multiple},
                      {"max_side", limits.max_side},
                      {"height", limits.default_height},
                      {"width", limits.default_width},
                      {"num_inference_steps", limits.default_steps},
                      {"guidance_scale", limits.default_guidance_scale},
                      {"guidance", name(limits.guidance)},
                      {"max_sequence_length", limits.max_sequence_length},
                      {"max_reference_images", limits.max_reference_images},
                      {"has_control", limits.control == ControlSupport::loaded}});
}

}  // namespace
}  // namespace nostos::api

nostos_pipeline::nostos_pipeline(const nostos_options& given) : log(given.log) {
  const nostos::LogTo to(&log);
  const auto start = nostos::api::Clock::now();
  record.model_path =
      given.revision.empty() ? given.model_path : nostos::with_revision(given.model_path, given.revision);
  record.parts = given.parts;
  record.variant = given.variant;
  const std::string& named = given.parts.transformer.empty() ? record.model_path : given.parts.transformer;
  record.model_name = nostos::model_label(named).shown;
  options = nostos::api::engine_options(given, record.model_path);
  engine = std::make_unique<nostos::Engine>(options);
  record.precision = engine->precision_name();
  record.text_precision = given.engine.text_precision;
  record.attention_precision = given.engine.attention_precision;
  record.guidance = engine->limits().guidance;
  start_ms = nostos::ms_since(start);
  info = nostos::api::info_of(*this);
}

std::unique_ptr<nostos_result> nostos_pipeline::draw(const nostos_request& request) {
  const nostos::LogTo to(&log);
  const auto start = nostos::api::Clock::now();
  const auto throw_if_cancelled = [&] {
    nostos::require(!request.cancel || !*request.cancel, nostos::ErrorKind::cancelled, "cancelled");
  };
  nostos::GenerationRequest asked = nostos::api::asked_of(request);
  nostos::hash_adapters(asked.adapters, *options.file_hashes);
  auto result = std::make_unique<nostos_result>();
  result->record = record;
  result->record.request = nostos::resolve(asked, engine->limits()).request;
  if (!asked.control) result->record.parts.controlnet.clear();
  const nostos::GenerationRequest& drawn = result->record.request;
  nostos::api::warn_of(asked, drawn, record.guidance);

  constexpr std::chrono::milliseconds kBetweenLooks{20};
  std::unique_lock lock(turn, std::defer_lock);
  while (!lock.try_lock_for(kBetweenLooks)) throw_if_cancelled();
  throw_if_cancelled();
  result->generation = engine->generate(drawn, nostos::api::progress_of(request, drawn));
  lock.unlock();

  for (size_t i = 0; i < result->generation.pictures.size(); ++i)
    result->records.push_back(nostos::to_json(result->record_of(i)));
  const nostos::RunReport& report = result->generation.report;
  result->report =
      nostos::json_pretty(nostos::drawing_json(result->record, options.model, result->generation,
                                               nostos::report_json(report, start_ms, nostos::ms_since(start))));
  return result;
}

using namespace nostos::api;

extern "C" {

nostos_status nostos_pipeline_open(const nostos_options* options, nostos_pipeline** pipeline, nostos_error** error) {
  return guarded(error, [&] {
    require_given("where the pipeline goes", pipeline);
    *pipeline = nullptr;
    require_given("the options", options);
    *pipeline = new nostos_pipeline(*options);
  });
}

const char* nostos_pipeline_info(const nostos_pipeline* pipeline) { return pipeline->info.c_str(); }

void nostos_pipeline_free(nostos_pipeline* pipeline) { delete pipeline; }

nostos_status nostos_generate(nostos_pipeline* pipeline, const nostos_request* request, nostos_result** result,
                              nostos_error** error) {
  return guarded(error, [&] {
    require_given("where the result goes", result);
    *result = nullptr;
    require_given("the pipeline", pipeline);
    require_given("the request", request);
    *result = pipeline->draw(*request).release();
  });
}
}
