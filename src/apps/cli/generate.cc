// Owns `nostos generate`: flags to a request, the request to picture files.
#include <fmt/format.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/adapter_hashes.h"
#include "api/drawing_json.h"
#include "api/input_files.h"
#include "api/model_places.h"
#include "apps/cli/adapters_flag.h"
#include "apps/cli/commands.h"
#include "apps/cli/control_flags.h"
#include "apps/cli/flags.h"
#include "apps/cli/gpu_choice.h"
#include "apps/cli/image_flags.h"
#include "apps/cli/interrupt.h"
#include "apps/cli/progress_display.h"
#include "apps/cli/ranks.h"
#include "apps/cli/standard_streams.h"
#include "base/elapsed.h"
#include "base/error.h"
#include "base/log.h"
#include "io/file.h"
#include "io/json_text.h"
#include "io/safetensors.h"
#include "pipeline/engine.h"
#include "pipeline/record.h"
#include "pipeline/request_warnings.h"

namespace nostos::cli {
namespace {

using Path = std::filesystem::path;

/// What the user typed. What is absent comes from the picture of --from, else from the request's and the model's
/// defaults.
struct GenerateFlags {
  CommonFlags common;
  EngineFlags engine;
  ModelFlags model;
  std::optional<std::string> prompt, negative_prompt, model_path, rng, latents, from;
  std::optional<int64_t> height, width, num_inference_steps, num_outputs, max_sequence_length;
  std::optional<uint64_t> seed;
  std::optional<double> guidance_scale, cfg_normalization, cfg_truncation;
  std::optional<std::vector<double>> sigmas;
  ImageFlags images;
  ControlFlags control;
  std::vector<std::string> loras;
  std::string output = "nostos.png";
  std::string save_latents, perf_dump_path;
  bool json = false;
};

void add_flags(CLI::App& command, GenerateFlags& flags) {
  const auto number = [&](const char* name, auto& value, const char* help) { add_number(command, name, value, help); };
  command.add_option("--model-path", flags.model_path, model_path_help("the embedded model draws"));
  command.add_option("--prompt", flags.prompt, "what to draw");
  command.add_option("--negative-prompt", flags.negative_prompt, "what to keep away from (needs guidance)");
  add_image_flags(command, flags.images);
  add_control_flags(command, flags.control);
  add_adapters_flag(command, flags.loras);
  number("--height", flags.height, "pixels; without it the first --image's, or else --control-image's");
  number("--width", flags.width, "pixels; without it the first --image's, or else --control-image's");
  number("--num-inference-steps", flags.num_inference_steps, "transformer calls");
  number("--guidance-scale", flags.guidance_scale, "classifier-free guidance; 0 is off");
  number("--cfg-normalization", flags.cfg_normalization,
         "caps the guided prediction's norm at this multiple; 0: no cap");
  number("--cfg-truncation", flags.cfg_truncation, "guidance stops once t exceeds this, in (0, 1]");
  number("--seed", flags.seed, "of the first picture; picture i uses seed + i (42)");
  number("--num-outputs", flags.num_outputs, "pictures of the prompt (1)");
  command.add_option(
      "--output", flags.output,
      "PNG, JPEG or WebP by its extension (nostos.png); several pictures become name_0.png, name_1.png ...");
  command.add_option("--rng", flags.rng, "noise as PyTorch makes it: torch-cpu or torch-cuda (torch-cpu)");
  command.add_option("--sigmas", flags.sigmas, "noise levels in place of the schedule's, e.g. 1,0.75,0.5,0.25")
      ->delimiter(',')
      ->check(not_empty());
  number("--max-sequence-length", flags.max_sequence_length,
         "tokens of a prompt, and of a negative one, beyond which it is cut (512)");
  command.add_option("--latents", flags.latents, "safetensors file whose tensor `latents` is the initial noise");
  command.add_option("--save-latents", flags.save_latents,
                     "safetensors file for the final state, numbered as --output");
  command.add_option("--from", flags.from, "PNG made by nostos to draw again; other flags override what it says");
  command.add_option("--perf-dump-path", flags.perf_dump_path,
                     "JSON file for stage times, step times, bytes and ranks");
  command.add_flag("--json", flags.json, "write one JSON object to standard output in place of the pictures' paths");
  add_model_flags(command, flags.model);
  add_engine_flags(command, flags.engine);
  add_common_flags(command, flags.common);
}

/// Lays the places that are given over those of `parts`.
void lay_over_parts(const PartPaths& given, PartPaths& parts) {
  for (const auto place : {&PartPaths::transformer, &PartPaths::text_encoder, &PartPaths::vae, &PartPaths::tokenizer,
                           &PartPaths::controlnet})
    if (!(given.*place).empty()) parts.*place = given.*place;
  parts.is_base = parts.is_base || given.is_base;
}

/// \return the record of --from, or an empty one, with the given flags laid over it.
DrawingRecord asked_for(const GenerateFlags& flags, const Processes& processes) {
  DrawingRecord record;
  if (flags.from) {
    record = parse_drawing_record(processes.from_root([&] { return read_record_text(*flags.from); }),
                                  fmt::format("{}: text chunk '{}'", *flags.from, kRecordKeyword));
  }
  GenerationRequest& request = record.request;
  require(flags.prompt || flags.from, ErrorKind::invalid_input,
          "nothing to draw: give --prompt, or --from with a picture");

  const auto lay_over = [](const auto& flag, auto& field) {
    if (flag) field = *flag;
  };
  lay_over(flags.prompt, request.prompt);
  lay_over(flags.negative_prompt, request.negative_prompt);
  lay_over(flags.height, request.height);
  lay_over(flags.width, request.width);
  lay_over(flags.guidance_scale, request.guidance_scale);
  lay_over(flags.cfg_normalization, request.cfg_normalization);
  lay_over(flags.cfg_truncation, request.cfg_truncation);
  lay_over(flags.num_outputs, request.num_outputs);
  lay_over(flags.max_sequence_length, request.max_sequence_length);
  if (flags.model_path) record.parts = {};
  lay_over(flags.model_path, record.model_path);
  lay_over_parts(flags.model.parts, record.parts);
  if (!flags.model.variant.empty()) record.variant = flags.model.variant;
  // A new revision replaces the one that the picture names.
  if (!flags.model.revision.empty() && !flags.model_path)
    record.model_path.resize(std::min(record.model_path.find('@'), record.model_path.size()));
  record.model_path = flags.model.named(record.model_path);
  if (flags.model_path || !flags.model.parts.transformer.empty() || record.model_name.empty())
    record.model_name =
        model_label(record.parts.transformer.empty() ? record.model_path : record.parts.transformer).shown;
  lay_over_images(flags.images, request);
  lay_over_control(flags.control, request);
  if (!flags.loras.empty()) request.adapters = adapters_of(flags.loras);
  if (flags.rng) request.rng = parse_rng(*flags.rng);
  // A new seed or noise, and new steps or levels, each replace what the picture says of the other.
  if (flags.seed) {
    request.seed = *flags.seed;
    request.start = Noise{};
  }
  if (flags.latents && flags.latents->empty()) request.start = Noise{};
  if (flags.latents && !flags.latents->empty()) request.start = Latents{.file = *flags.latents};
  if (flags.sigmas) request.num_inference_steps.reset();
  if (flags.num_inference_steps) request.sigmas.clear();
  lay_over(flags.sigmas, request.sigmas);
  lay_over(flags.num_inference_steps, request.num_inference_steps);
  return record;
}

/// \return `path`, or with several pictures `path` with _index before its extension.
Path numbered(const Path& path, int64_t index, int64_t count) {
  if (count == 1) return path;
  return path.parent_path() / fmt::format("{}_{}{}", path.stem().string(), index, path.extension().string());
}

/// Finds what is in the way of writing before any work starts. \throws Error invalid_input
void require_outputs(const GenerateFlags& flags, int64_t count) {
  image_format(flags.output);
  std::map<Path, const char*> written;
  const auto require_output = [&](const char* flag, const Path& path) {
    const Path file = require_writable(path);
    if (file.empty()) return;
    const auto [other, is_new] = written.emplace(file, flag);
    require(is_new, ErrorKind::invalid_input, "{} and {} both name '{}': one would overwrite the other", other->second,
            flag, file.string());
  };
  for (int64_t i = 0; i < count; ++i) {
    require_output("--output", numbered(flags.output, i, count));
    if (!flags.save_latents.empty()) require_output("--save-latents", numbered(flags.save_latents, i, count));
  }
  if (!flags.perf_dump_path.empty()) require_output("--perf-dump-path", flags.perf_dump_path);
}

/// Has the guidance of the picture of --from mean the same with a model of another form.
void convert_guidance(DrawingRecord& record, GuidanceForm form, const GenerateFlags& flags) {
  if (!flags.from || flags.guidance_scale || record.guidance == form) return;
  double& scale = record.request.guidance_scale.value();
  const double recorded = std::exchange(scale, guidance_scale_of(cfg_scale_of(scale, record.guidance), form));
  if (scale != recorded && form != GuidanceForm::none)
    log_info("the guidance scale {} of the picture of --from is {} with this model", recorded, scale);
}

/// Says which flags change nothing in this drawing.
void warn_of_unused(const GenerateFlags& flags, const DrawingRecord& record) {
  GuidanceWords words{.ask = "--guidance-scale", .scale = "", .negative_prompt = "", .cfg_normalization = ""};
  if (flags.guidance_scale)
    words.scale = words.ask;
  else if (flags.from)
    words.scale = "--from's guidance scale";
  if (flags.negative_prompt) words.negative_prompt = "--negative-prompt";
  if (flags.cfg_normalization) words.cfg_normalization = "--cfg-normalization";
  for (const std::string& warning : guidance_warnings(record.request, record.guidance, words))
    log_message(LogLevel::warning, warning);
}

void write_text(const Path& path, const std::string& text) {
  write_file_atomically(path, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

/// Writes picture `index` and, if asked for, its latents. \return its entry in the JSON output.
nlohmann::ordered_json write_picture(const GenerateFlags& flags, const DrawingRecord& asked,
                                     const Generation& generation, size_t index) {
  const Picture& picture = generation.pictures[index];
  const auto count = static_cast<int64_t>(generation.pictures.size());
  DrawingRecord record = asked;
  record.request.seed = picture.seed;
  record.request.num_outputs = 1;
  const Path file = numbered(flags.output, static_cast<int64_t>(index), count);
  write_file_atomically(file, encode_image(picture.image, image_format(file), text_chunks(record)));

  nlohmann::ordered_json latents_path;
  if (!flags.save_latents.empty()) {
    const Path latents = numbered(flags.save_latents, static_cast<int64_t>(index), count);
    const NamedTensor tensor{"latents", picture.latents};
    write_safetensors(latents, {&tensor, 1});
    latents_path = latents.string();
  }
  return {{"path", file.string()},
          {"seed", picture.seed},
          {"height", picture.image.height},
          {"width", picture.image.width},
          {"latents_path", latents_path}};
}

void log_summary(const RunReport& report, size_t pictures, double total_ms) {
  std::string stages;
  for (const StageTime& stage : report.stages) stages += fmt::format(", {} {:.2f}", stage.name, stage.ms / 1000);
  log_info("drew {} picture{} in {:.2f} s{}", pictures, pictures == 1 ? "" : "s", total_ms / 1000, stages);
}

void warn(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) log_warning("{}", warning);
}

/// Resolves the record's request, with the defaults of the root's model, whatever generation_config.json the other
/// processes have. What no model can draw is found before one is looked for, and what this one cannot before it is
/// loaded, and before reference pictures are read. \return what draws it
EngineOptions settle(DrawingRecord& record, const EngineFlags& engine_flags, const GenerateFlags& flags,
                     const Processes& processes) {
  EngineFlags without_auto = engine_flags;
  const bool chooses_gpus = processes.communicator() == nullptr && engine_flags.num_gpus == kAutoGpus;
  if (chooses_gpus) without_auto.num_gpus.reset();
  EngineOptions options = engine_options(without_auto, processes);
  GenerationRequest without_images = record.request;
  without_images.images.clear();
  without_images.strength.reset();
  without_images.mask.reset();
  without_images.control.reset();
  const int64_t count = resolve(without_images, any_model_limits()).request.num_outputs;
  if (processes.is_root()) require_outputs(flags, count);
  options.model = model_files(record.model_path, record.parts);
  if (!record.request.control) {
    if (processes.is_root() && !record.parts.controlnet.empty())
      log_warning("--controlnet changes nothing without --control-image, or --control-scale with --mask-image");
    record.parts.controlnet.clear();
    options.model.controlnet.clear();
  }
  options.variant = record.variant;
  options.memory.one_drawing = count == 1;
  // Every process reads the files, and the root says which they are.
  options.file_hashes = std::make_shared<FileHashes>();
  if (processes.is_root()) hash_adapters(record.request.adapters, *options.file_hashes);
  if (Latents* const latents = std::get_if<Latents>(&record.request.start); latents != nullptr && processes.is_root())
    latents->values = read_latents(latents->file);
  const ModelShape shape = read_model_shape(options.model);
  const ModelLimits& limits = shape.limits;
  // The other processes have no pictures to resolve a request with: the root's record will say all of it.
  if (!processes.is_root()) record.request = std::move(without_images);
  take_images(flags.images, processes.is_root(), limits, record.request);
  take_control(flags.control, processes.is_root(), limits, record.request);
  convert_guidance(record, limits.guidance, flags);
  const ResolvedRequest resolved = resolve(record.request, limits);
  const int64_t height = *resolved.request.height, width = *resolved.request.width;
  if (processes.is_root() && (resolved.drawn_height != height || resolved.drawn_width != width))
    log_info("{}x{} is no multiple of {}: drawn at {}x{} and cropped evenly", width, height, limits.size_multiple,
             resolved.drawn_width, resolved.drawn_height);
  if (processes.is_root()) log_prepared(resolved);
  if (chooses_gpus) use_fastest_gpus(engine_flags, resolved, shape, options);
  record.request = resolved.request;
  record.guidance = limits.guidance;
  if (processes.communicator() == nullptr) return options;
  const std::string agreed = processes.from_root([&record] { return to_json(record); });
  if (!processes.is_root()) record = parse_drawing_record(agreed, "the record of rank 0");
  return options;
}

/// How long the command took in milliseconds, from its start.
struct Times {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double ready_ms = 0;  ///< until the engine was ready
};

/// Writes all that the flags ask for. \param record with the precision that it was drawn in \param model its folder
void write_results(const GenerateFlags& flags, const DrawingRecord& record, const ModelFiles& model,
                   const Generation& generation, const Times& times, const std::atomic<bool>& interrupted) {
  nlohmann::ordered_json pictures = nlohmann::ordered_json::array();
  for (size_t i = 0; i < generation.pictures.size(); ++i) {
    require(!interrupted, ErrorKind::cancelled, "interrupted");
    pictures.push_back(write_picture(flags, record, generation, i));
    if (!flags.json) print_output("{}\n", pictures.back()["path"].get<std::string>());
  }
  const double total_ms = ms_since(times.start);
  log_summary(generation.report, generation.pictures.size(), total_ms);

  const nlohmann::ordered_json report = report_json(generation.report, times.ready_ms, total_ms);
  if (!flags.perf_dump_path.empty()) write_text(flags.perf_dump_path, json_pretty(report) + "\n");
  if (!flags.json) return;
  nlohmann::ordered_json result{{"pictures", std::move(pictures)}};
  result.update(drawing_json(record, model, generation, report));
  print_output("{}\n", json_pretty(result));
}

void generate(CLI::App& command, const GenerateFlags& flags, const Processes& processes) {
  Times times;
  const bool is_root = processes.is_root();
  DrawingRecord record = asked_for(flags, processes);
  EngineFlags engine_flags = flags.engine;
  if (command.count("--precision") == 0) engine_flags.precision = record.precision;
  if (command.count("--text-precision") == 0) engine_flags.text_precision = record.text_precision;
  if (command.count("--attention-precision") == 0) engine_flags.attention_precision = record.attention_precision;
  const EngineOptions options = settle(record, engine_flags, flags, processes);

  const std::atomic<bool>& interrupted = catch_interrupts();
  ProgressDisplay display(is_root && log_enabled(LogLevel::info));
  display.on_stage("load");
  Engine engine(options, processes.communicator());
  processes.require_same_precision(engine.precision_name());
  record.precision = engine.precision_name();
  record.text_precision = engine_flags.text_precision;
  record.attention_precision = engine_flags.attention_precision;
  times.ready_ms = ms_since(times.start);
  display.clear();
  if (is_root) warn_of_unused(flags, record);
  if (is_root) warn(network_warnings(record.request));
  if (is_root) warn(control_warnings(record.request));
  Progress progress;
  progress.on_stage = [&](const char* stage) { display.on_stage(stage); };
  progress.on_step = [&](int64_t step, int64_t steps, double step_ms) { display.on_step(step, steps, step_ms); };
  progress.on_prompts = [&](PromptsCut cut) { warn(cut_warnings(record.request, cut)); };
  progress.cancel = &interrupted;
  const Generation generation = engine.generate(record.request, progress);
  display.clear();
  if (is_root) write_results(flags, record, options.model, generation, times, interrupted);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Draw pictures from a prompt");
  auto flags = std::make_shared<GenerateFlags>();
  add_flags(*command, *flags);
  command->callback([command, flags] {
    run_processes(*command, flags->common, flags->engine,
                  [&](const Processes& processes) { generate(*command, *flags, processes); });
  });
}

}  // namespace nostos::cli
