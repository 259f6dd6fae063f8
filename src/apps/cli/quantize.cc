// Owns `nostos quantize`: which layers of a model can be rounded to 8 bits, and a file in which they are.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>

#include "api/model_places.h"
#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/interrupt.h"
#include "apps/cli/progress_display.h"
#include "apps/cli/ranks.h"
#include "apps/cli/standard_streams.h"
#include "base/elapsed.h"
#include "base/error.h"
#include "base/log.h"
#include "base/terminal.h"
#include "checkpoints/conversion.h"
#include "io/file.h"
#include "io/utf8.h"
#include "quantisation/quantise.h"

namespace nostos::cli {
namespace {

constexpr size_t kMostPrompts = 1000, kMostPromptBytes = size_t{1} << 24;
constexpr const char* kPrompts[]{"A crowded beach at sunset, seen from above",
                                 "A portrait of an old man with a beard, soft light from a window",
                                 "A shop sign that says OPEN in red neon letters, at night, in the rain",
                                 "Three apples on a wooden table, a white wall behind them"};

struct QuantizeFlags {
  CommonFlags common;
  EngineFlags engine;
  ModelFlags model;
  std::string model_path, synthetic, output;
  std::optional<std::string> prompts;
  bool synthetic_hostile = false, overwrite = false, json = false;
  std::optional<int64_t> height, width, num_inference_steps;
  std::optional<double> guidance_scale;
  std::optional<uint64_t> seed;
  double max_layer_error = kMaxLayerError;
};

/// \return the lines that are not blank. \throws Error invalid_input
std::vector<std::string> read_prompts(const std::string& file) {
  std::istringstream text(read_file(file, kMostPromptBytes));
  std::vector<std::string> prompts;
  int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    require(is_one_line(line), ErrorKind::invalid_input,
            "{}: line {} is no prompt: prompts are UTF-8 text without control characters", file, number);
    prompts.push_back(line);
  }
  require(!prompts.empty() && prompts.size() <= kMostPrompts, ErrorKind::invalid_input,
          "{}: has {} prompts, one a line; it must have 1 to {}", file, prompts.size(), kMostPrompts);
  return prompts;
}

QuantisationOptions options_of(const QuantizeFlags& flags) {
  QuantisationOptions options;
  options.output = flags.output;
  options.max_layer_error = flags.max_layer_error;
  require(flags.output.empty() || options.output.extension() == ".safetensors", ErrorKind::invalid_input,
          "cannot write '{}': the file's name must end in .safetensors", flags.output);
  require(!flags.output.empty() || !flags.synthetic.empty() || flags.json, ErrorKind::invalid_input,
          "nothing to write: give --output, or --json to have what is measured alone");
  if (!flags.output.empty()) require_output_file(options.output, flags.overwrite);
  for (const std::string& prompt : flags.prompts ? read_prompts(*flags.prompts)
                                                 : std::vector<std::string>(std::begin(kPrompts), std::end(kPrompts))) {
    GenerationRequest& request = options.requests.emplace_back();
    request.prompt = prompt;
    request.height = flags.height;
    request.width = flags.width;
    request.num_inference_steps = flags.num_inference_steps;
    request.guidance_scale = flags.guidance_scale;
    if (flags.seed) request.seed = *flags.seed;
  }
  options.engine = engine_options(flags.engine, Processes(nullptr));
  options.engine.synthetic = !flags.synthetic.empty();
  options.engine.synthetic_hostile = is_hostile(flags.synthetic_hostile, options.engine);
  options.engine.model = options.engine.synthetic ? synthetic_model(flags.synthetic)
                                                  : model_files(flags.model.named(flags.model_path), flags.model.parts);
  options.engine.variant = flags.model.variant;
  return options;
}

/// \return e.g. "layers.0.attention.to_q, to_k, to_v" of the names of matrices that stand side by side.
std::string name_of(const LayerError& layer) {
  constexpr std::string_view kWeight = ".weight";
  std::string made;
  std::string_view parent;
  for (std::string_view name : layer.matrices) {
    if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
    const std::string_view own_parent = name.substr(0, name.rfind('.') + 1);
    const bool is_beside = !made.empty() && own_parent == parent;
    made += made.empty() ? "" : ", ";
    made += is_beside ? name.substr(own_parent.size()) : name;
    parent = own_parent;
  }
  return made;
}

void print_layers(const QuantisationReport& report) {
  size_t width = 0;
  for (const LayerError& layer : report.layers) width = std::max(width, name_of(layer).size());
  print_output("{:<{}}  {:>6}  {:>7}  {:>7}  {:>7}\n", "layer", width, "inputs", "outputs", "error", "worst");
  for (const LayerError& layer : report.layers)
    print_output("{:<{}}  {:>6}  {:>7}  {:>7.4f}  {:>7.4f}  {}\n", name_of(layer), width, layer.in, layer.out,
                 layer.mean, layer.worst, layer.is_kept ? "kept" : "int8");
}

void print_report(const QuantisationReport& report) {
  print_layers(report);
  print_output("\nvelocity, at the same states\n{:>4}  {:>9}  {:>9}  {:>7}  {:>7}\n", "step", "cosine", "least",
               "error", "worst");
  for (size_t step = 0; step < report.steps.size(); ++step) {
    const StepErrors& of = report.steps[step];
    print_output("{:>4}  {:>9.6f}  {:>9.6f}  {:>7.4f}  {:>7.4f}\n", step + 1, of.mean_cosine, of.least_cosine,
                 of.mean_relative, of.most_relative);
  }
  print_output("\n{:>7}  {:>7}  image\n", "PSNR", "SSIM");
  for (const ImageError& image : report.images)
    print_output("{:>7.2f}  {:>7.4f}  {}\n", image.psnr, image.ssim, without_controls(image.prompt));
  const auto kept = std::ranges::count(report.layers, true, &LayerError::is_kept);
  print_output(
      "\n{} of {} layers are rounded, {} are kept: those whose error is beyond {}, and of Z-Image "
      "attention's in the first blocks and layers.0.feed_forward.w2.\n"
      "Mean PSNR {:.2f} dB, mean SSIM {:.4f}, least cosine {:.6f}.\n",
      std::ssize(report.layers) - kept, report.layers.size(), kept, report.max_layer_error, report.mean_psnr(),
      report.mean_ssim(), report.least_cosine());
}

void quantize(CLI::App& command, const QuantizeFlags& flags) {
  apply_common_flags(command, flags.common);
  const QuantisationOptions options = options_of(flags);
  const std::atomic<bool>& interrupted = catch_interrupts();
  ProgressDisplay display(log_enabled(LogLevel::info));
  auto before = std::chrono::steady_clock::now();
  std::string_view stage;
  QuantisationProgress progress;
  progress.cancel = &interrupted;
  progress.on_work = [&](const char* now, int64_t done, int64_t all) {
    if (stage != now) display.on_stage(now);
    stage = now;
    display.on_step(done, all, ms_since(before));
    before = std::chrono::steady_clock::now();
  };
  const QuantisationReport report = quantise(options, progress);
  display.clear();
  if (flags.json)
    print_output("{}\n", report_json(report));
  else
    print_report(report);
  if (!flags.output.empty())
    log_info("wrote {}, {:.1f} MB", flags.output, static_cast<double>(std::filesystem::file_size(flags.output)) / 1e6);
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "quantize",
      "Measure which layers can be rounded to 8 bits, and write a file of the transformer in which they are");
  auto flags = std::make_shared<QuantizeFlags>();
  const auto number = [&](const char* name, auto& value, const char* help) {
    return add_number(*command, name, value, help);
  };
  auto* model = command->add_option("--model-path", flags->model_path, model_path_help("the embedded model"));
  command
      ->add_option("--synthetic", flags->synthetic,
                   "measure random weights for the configs of this folder, or of a name as bench has them")
      ->excludes(model);
  command->add_flag("--synthetic-hostile", flags->synthetic_hostile, kHostileHelp);
  command->add_option("--output", flags->output, "file whose name ends in .safetensors");
  command->add_option("--prompts", flags->prompts,
                      "UTF-8 text file with a prompt a line, to measure with (four of nostos)");
  number("--max-layer-error", flags->max_layer_error,
         "layers whose output is off by more, relative to its norm, are kept as they are (0.1)")
      ->check(number_in(0, 1e6));
  number("--height", flags->height, "pixels");
  number("--width", flags->width, "pixels");
  number("--num-inference-steps", flags->num_inference_steps, "transformer calls");
  number("--guidance-scale", flags->guidance_scale, "classifier-free guidance; 0 is off");
  number("--seed", flags->seed, "of every image (42)");
  command->add_flag("--json", flags->json, "write one JSON object to standard output in place of the tables");
  command->add_flag("--overwrite", flags->overwrite, "replace the file that is there");
  add_model_flags(*command, flags->model);
  add_engine_flags(*command, flags->engine);
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { quantize(*command, *flags); });
}

}  // namespace nostos::cli
