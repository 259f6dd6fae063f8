// Owns `nostos bench`: times of the stages, and the transformer's rate against the machine's own matrix products.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/model_places.h"
#include "apps/cli/adapters_flag.h"
#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/interrupt.h"
#include "apps/cli/progress_display.h"
#include "apps/cli/ranks.h"
#include "apps/cli/references_flag.h"
#include "apps/cli/standard_streams.h"
#include "base/elapsed.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "io/json_text.h"
#include "pipeline/engine.h"
#include "pipeline/request_warnings.h"

namespace nostos::cli {
namespace {

using nlohmann::ordered_json;

struct BenchFlags {
  CommonFlags common;
  EngineFlags engine;
  ModelFlags model;
  std::vector<std::string> loras;
  std::string model_path, synthetic, synthetic_format, synthetic_control;
  std::string prompt = "A crowded beach";
  std::optional<int64_t> height, width, num_inference_steps;
  std::optional<double> guidance_scale, strength;
  bool synthetic_hostile = false;
  int64_t num_outputs = 1;
  int64_t reference_images = 0;
  std::optional<int64_t> warmup;
  int64_t repeat = 1;
  double pause_s = 0;
  bool json = false;
};

/// Times of all runs that count, in milliseconds.
struct Timings {
  std::vector<std::string> stage_order;
  std::map<std::string, std::vector<double>> stage_ms;
  std::vector<double> step_ms, total_ms;
  double first_ms = 0;  ///< of the first run, counted or not: with what is found out and compiled on first use
};

void add_flags(CLI::App& command, BenchFlags& flags) {
  const auto number = [&](const char* name, auto& value, const char* help) {
    return add_number(command, name, value, help);
  };
  auto* model = command.add_option("--model-path", flags.model_path, model_path_help("the embedded model"));
  command
      .add_option("--synthetic", flags.synthetic,
                  "random weights made in memory for the configs of this folder, or of one of these names: "
                  "z-image-turbo, flux2-klein-4b, flux2-klein-9b")
      ->excludes(model);
  command.add_option(
      "--synthetic-format", flags.synthetic_format,
      "how the matrices of --synthetic are stored: bf16, q4_k, q8_0, f8_e4m3, int8_convrot ..., or of each part: "
      "transformer=q6_k,text_encoder=q4_k (bf16)");
  command.add_flag("--synthetic-hostile", flags.synthetic_hostile, kHostileHelp);
  command.add_option("--synthetic-control", flags.synthetic_control,
                     "control network of random weights beside --synthetic: union-1.0, union-2.0, union-2.1 or lite of "
                     "z-image-turbo, or a folder with a config");
  command.add_option("--prompt", flags.prompt, "what to draw");
  number("--height", flags.height, "pixels");
  number("--width", flags.width, "pixels");
  number("--num-inference-steps", flags.num_inference_steps, "transformer calls");
  number("--guidance-scale", flags.guidance_scale, "classifier-free guidance; 0 is off");
  number("--num-outputs", flags.num_outputs, "pictures of each run (1)");
  number("--strength", flags.strength,
         "begins with a picture of the picture's size, as image to image does: above 0, 1 is all of the steps (off)");
  add_references_flag(command, flags.reference_images);
  add_adapters_flag(command, flags.loras);
  command.add_option("--warmup", flags.warmup, "runs that do not count (1; with --synthetic 0)")
      ->transform(whole_number<int64_t>(0, 1000));
  command.add_option("--repeat", flags.repeat, "runs that count (1)")->transform(whole_number<int64_t>(1, 1000));
  number("--pause", flags.pause_s,
         "seconds of rest before each run (0: as under load; a GPU at its power limit is faster after a rest)")
      ->check(number_in(0, 600));
  command.add_flag("--json", flags.json, "write one JSON object to standard output");
  add_model_flags(command, flags.model);
  add_engine_flags(command, flags.engine);
  add_common_flags(command, flags.common);
}

/// \return the middle value, or the mean of the two in the middle; 0 of none.
double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void add_run(Timings& timings, const RunReport& report, double total_ms) {
  for (const StageTime& stage : report.stages) {
    std::vector<double>& times = timings.stage_ms[stage.name];
    if (times.empty()) timings.stage_order.push_back(stage.name);
    times.push_back(stage.ms);
  }
  timings.step_ms.insert(timings.step_ms.end(), report.step_ms.begin(), report.step_ms.end());
  timings.total_ms.push_back(total_ms);
}

/// \return FNV-1a of the picture's bytes: whether two runs have drawn the same.
std::string digest(const Image& image) { return fmt::format("{:016x}", fnv1a(image.rgb)); }

/// What is timed.
struct Subject {
  std::string model_path, controlnet, precision;
  GenerationRequest request;
  int64_t warmup = 0;  ///< runs that are not timed
};

ordered_json result_json(const Subject& subject, const BenchFlags& flags, const Timings& timings,
                         const Generation& drawn, double matmul_gflops) {
  const GenerationRequest& request = subject.request;
  const RunReport& last = drawn.report;
  const double step_ms = median(timings.step_ms);
  const double transformer_gflops = step_ms > 0 ? last.transformer_flop / step_ms / 1e6 : 0;
  ordered_json stages = ordered_json::array();
  for (const std::string& name : timings.stage_order) {
    const std::vector<double>& times = timings.stage_ms.at(name);
    stages.push_back({{"name", name}, {"median_ms", median(times)}, {"ms", times}});
  }
  ordered_json references = ordered_json::array();
  for (const ImageSize& size : drawn.resolved.reference_sizes)
    references.push_back({{"height", size.height}, {"width", size.width}});
  return {{"model_path", subject.model_path},
          {"precision", subject.precision},
          {"height", request.height.value()},
          {"width", request.width.value()},
          {"references", references},
          {"strength", request.strength ? ordered_json(*request.strength) : ordered_json()},
          {"controlnet", subject.controlnet.empty() ? ordered_json() : ordered_json(subject.controlnet)},
          {"num_inference_steps", request.num_inference_steps.value()},
          {"guidance_scale", request.guidance_scale.value()},
          {"num_outputs", request.num_outputs},
          {"warmup", subject.warmup},
          {"repeat", flags.repeat},
          {"pause_s", flags.pause_s},
          {"stages", stages},
          {"step_median_ms", step_ms},
          {"step_ms", timings.step_ms},
          {"total_median_ms", median(timings.total_ms)},
          {"total_ms", timings.total_ms},
          {"first_run_ms", timings.first_ms},
          {"transformer_rows", last.transformer_rows},
          {"transformer_flop_per_step", last.transformer_flop},
          {"transformer_gflops", transformer_gflops},
          {"matmul_gflops", matmul_gflops},
          {"matmul_share", matmul_gflops > 0 ? transformer_gflops / matmul_gflops : 0},
          {"world_size", last.ranks.size()},
          {"weight_bytes", last.weight_bytes},
          {"streamed_bytes", last.streamed_bytes},
          {"adapter_bytes", last.adapter_bytes},
          {"arena_bytes", last.arena_bytes},
          {"peak_host_bytes", last.peak_host_bytes},
          {"picture_digest", digest(drawn.pictures.front().image)},
          {"version", NOSTOS_VERSION}};
}

/// \return e.g. " with 2 references of 1024x1024", or nothing.
std::string references_text(const ordered_json& references) {
  if (references.empty()) return {};
  const ordered_json& size = references.front();  // all have the same one
  return fmt::format(" with {} reference{} of {}x{}", references.size(), references.size() == 1 ? "" : "s",
                     size["width"].get<int64_t>(), size["height"].get<int64_t>());
}

void print_text(const ordered_json& result) {
  const auto ranks = result["world_size"].get<int64_t>();
  const auto pictures = result["num_outputs"].get<int64_t>();
  const ordered_json& controlnet = result["controlnet"];
  print_output("{}{}x{}{}{}, {} steps, guidance {}, {} in {}{}\n",
               pictures == 1 ? "" : fmt::format("{} pictures of ", pictures), result["width"].get<int64_t>(),
               result["height"].get<int64_t>(), references_text(result["references"]),
               controlnet.is_null() ? "" : fmt::format(" by {}", controlnet.get<std::string>()),
               result["num_inference_steps"].get<int64_t>(), result["guidance_scale"].get<double>(),
               result["model_path"].get<std::string>(), result["precision"].get<std::string>(),
               ranks == 1 ? "" : fmt::format(" on {} ranks", ranks));
  for (const ordered_json& stage : result["stages"]) {
    print_output("  {:<14}{:>12.1f} ms\n", stage["name"].get<std::string>(), stage["median_ms"].get<double>());
  }
  for (const auto& [name, field] :
       {std::pair{"one step", "step_median_ms"}, {"total", "total_median_ms"}, {"first run", "first_run_ms"}})
    print_output("  {:<14}{:>12.1f} ms\n", name, result[field].get<double>());
  print_output("transformer {:.3f} TFLOP/s, {:.1f} % of matrix products alone here ({:.3f} TFLOP/s)\n",
               result["transformer_gflops"].get<double>() / 1000, result["matmul_share"].get<double>() * 100,
               result["matmul_gflops"].get<double>() / 1000);
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  print_output("memory: peak {:.2f} GiB, weights {:.2f} GiB, scratch {:.2f} GiB",
               result["peak_host_bytes"].get<double>() / kGiB, result["weight_bytes"].get<double>() / kGiB,
               result["arena_bytes"].get<double>() / kGiB);
  if (const double streamed = result["streamed_bytes"].get<double>(); streamed > 0)
    print_output(", weights streamed from the host {:.2f} GiB", streamed / kGiB);
  print_output("\n");
}

/// Waits, but not longer than until an interrupt.
void rest(double seconds, const std::atomic<bool>& interrupted) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!interrupted && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

GenerationRequest asked_for(const BenchFlags& flags) {
  GenerationRequest request;
  request.prompt = flags.prompt;
  request.height = flags.height;
  request.width = flags.width;
  request.num_inference_steps = flags.num_inference_steps;
  request.guidance_scale = flags.guidance_scale;
  request.num_outputs = flags.num_outputs;
  request.strength = flags.strength;
  request.adapters = adapters_of(flags.loras);
  return request;
}

/// \return a grey picture, which has no hash: every process needs it.
ReferenceImage grey_picture(ImageSize size) {
  const std::vector<uint8_t> rgb(static_cast<size_t>(size.height * size.width * 3), 128);
  return {.file = "grey", .size = size, .image = std::make_shared<const Image>(Image{size.height, size.width, rgb})};
}

/// Has all given pictures of a request, which are of one size, share one grey picture. Every process needs it: they
/// have no hash that would tell them apart.
void paint_images(GenerationRequest& request) {
  if (request.images.empty()) return;
  const ReferenceImage grey = grey_picture(request.images.front().size);
  for (ReferenceImage& image : request.images) image.image = grey.image;
}

/// \return the places of what is timed.
ModelFiles files_of(const BenchFlags& flags, bool is_synthetic) {
  if (!is_synthetic) return model_files(flags.model.named(flags.model_path), flags.model.parts);
  ModelFiles files = synthetic_model(flags.synthetic);
  if (!flags.synthetic_control.empty())
    files.controlnet = synthetic_part(files.model / "controlnet", flags.synthetic_control);
  return files;
}

void bench(const BenchFlags& flags, const Processes& processes) {
  with_references(asked_for(flags), 0, any_model_limits());  // what no model can draw is found before one is looked for
  EngineOptions options = engine_options(flags.engine, processes);
  options.synthetic = !flags.synthetic.empty();
  const bool names_weights =
      !flags.model.revision.empty() || !flags.model.variant.empty() || flags.model.parts != PartPaths{};
  require(!options.synthetic || !names_weights, ErrorKind::invalid_input,
          "--synthetic makes its weights: --revision, --variant and places of parts have no meaning there");
  const int64_t warmup = flags.warmup.value_or(options.synthetic ? 0 : 1);
  options.memory.one_drawing = warmup + flags.repeat == 1;
  require(options.synthetic || flags.synthetic_format.empty(), ErrorKind::invalid_input,
          "--synthetic-format is of random weights: it needs --synthetic");
  require(options.synthetic || flags.synthetic_control.empty(), ErrorKind::invalid_input,
          "--synthetic-control is of random weights: it needs --synthetic; --controlnet takes a network that is there");
  options.synthetic_format = flags.synthetic_format;
  options.synthetic_hostile = is_hostile(flags.synthetic_hostile, options);
  options.model = files_of(flags, options.synthetic);
  options.variant = flags.model.variant;
  GenerationRequest request =
      with_references(asked_for(flags), flags.reference_images, read_model_shape(options.model).limits).request;
  paint_images(request);
  if (!options.model.controlnet.empty())
    request.control = Control{.image = grey_picture({*request.height, *request.width})};

  const std::atomic<bool>& interrupted = catch_interrupts();
  ProgressDisplay display(processes.is_root() && log_enabled(LogLevel::info));
  Engine engine(options, processes.communicator());
  processes.require_same_precision(engine.precision_name());
  Progress progress;
  progress.on_stage = [&](const char* stage) { display.on_stage(stage); };
  progress.on_step = [&](int64_t step, int64_t steps, double step_ms) { display.on_step(step, steps, step_ms); };
  progress.on_prompts = [&](PromptsCut cut) {
    for (const std::string& warning : cut_warnings(request, cut)) log_warning("{}", warning);
  };
  progress.cancel = &interrupted;

  Timings timings;
  Generation drawn;
  for (int64_t run = 0; run < warmup + flags.repeat; ++run) {
    rest(flags.pause_s, interrupted);
    const auto start = std::chrono::steady_clock::now();
    drawn = engine.generate(request, progress);
    const double total_ms = ms_since(start);
    if (run == 0) timings.first_ms = total_ms;
    if (run >= warmup) add_run(timings, drawn.report, total_ms);
  }
  display.clear();
  double matmul_gflops = engine.measure_matmul_gflops(std::max<int64_t>(drawn.report.transformer_rows, 1));
  if (processes.communicator() != nullptr) processes.communicator()->all_reduce_sum(std::span(&matmul_gflops, 1));
  if (!processes.is_root()) return;
  const ordered_json result = result_json(
      {shown_place(options.model), options.model.controlnet.string(), engine.precision_name(), request, warmup}, flags,
      timings, drawn, matmul_gflops);
  if (flags.json)
    print_output("{}\n", json_pretty(result));
  else
    print_text(result);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Time each stage of drawing");
  auto flags = std::make_shared<BenchFlags>();
  add_flags(*command, *flags);
  command->callback([command, flags] {
    run_processes(*command, flags->common, flags->engine,
                  [&](const Processes& processes) { bench(*flags, processes); });
  });
}

}  // namespace nostos::cli
