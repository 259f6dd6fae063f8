// Owns `nostos convert`: a model in another form.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <memory>

#include "apps/cli/adapters_flag.h"
#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/interrupt.h"
#include "apps/cli/progress_display.h"
#include "apps/cli/standard_streams.h"
#include "base/elapsed.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoints/conversion.h"
#include "io/weight_store.h"

namespace nostos::cli {
namespace {

constexpr size_t kMostNames = 4;

struct ConvertFlags {
  CommonFlags common;
  ModelFlags model;
  std::string model_path, output, dtype = "bf16";
  std::vector<std::string> parts, loras;
  bool overwrite = false;
};

DType parse_output_dtype(const std::string& name) {
  if (name == "bf16") return DType::bf16;
  if (name == "f16") return DType::f16;
  if (name == "f32") return DType::f32;
  fail(ErrorKind::invalid_input, "dtype '{}' is unknown; use bf16, f16 or f32", name);
}

ConversionOptions options_of(const ConvertFlags& flags) {
  ConversionOptions options;
  options.dtype = parse_output_dtype(flags.dtype);
  options.files = model_files(flags.model.named(flags.model_path), flags.model.parts);
  options.variant = flags.model.variant;
  options.parts = flags.parts;
  for (const AdapterUse& use : adapters_of(flags.loras)) options.adapters.push_back({use.file, use.scale});
  options.output = flags.output;
  options.may_replace = flags.overwrite;
  return options;
}

void log_plan(const ConversionPlan& plan) {
  for (const ConversionPlan::Part& part : plan.parts) {
    log_info("{}: {} from {}", part.name, part.title, part.from);
    if (!part.missing.empty())
      log_warning("{}: {} tensors are missing that no drawing of nostos needs, but other programs may: {}", part.from,
                  part.missing.size(), join_some(part.missing, kMostNames));
  }
  for (const AdapterReport& adapter : plan.adapters) log_info("{}", adapter.summary());
}

uintmax_t bytes_of(const std::filesystem::path& place) {
  if (!std::filesystem::is_directory(place)) return std::filesystem::file_size(place);
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(place))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

void convert(CLI::App& command, const ConvertFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  apply_common_flags(command, flags.common);
  const ConversionOptions options = options_of(flags);
  const std::atomic<bool>& interrupted = catch_interrupts();
  ProgressDisplay display(log_enabled(LogLevel::info));
  int64_t tensors = 0;
  double before_ms = ms_since(start);
  ConversionProgress progress;
  progress.on_plan = [&](const ConversionPlan& plan) {
    tensors = plan.tensors;
    log_plan(plan);
  };
  progress.write.on_tensor = [&](int64_t done) {
    const double now_ms = ms_since(start);
    display.on_step(done, tensors, now_ms - before_ms);
    before_ms = now_ms;
  };
  progress.write.cancel = &interrupted;
  const WrittenTensors written = convert_model(options, progress);
  display.clear();
  log_info("wrote {} tensors, {} numbers as {}, {:.1f} MB in {:.1f} s", written.tensors, written.numbers, flags.dtype,
           static_cast<double>(bytes_of(options.output)) / 1e6, ms_since(start) / 1000);
  print_output("{}\n", flags.output);
}

}  // namespace

void add_convert_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "convert", "Write a model as a diffusers folder or as one safetensors file, in plain numbers, with LoRAs merged");
  auto flags = std::make_shared<ConvertFlags>();
  command->add_option("--model-path", flags->model_path, model_path_help("the embedded model"));
  command
      ->add_option("--output", flags->output,
                   "folder, or with the ending .safetensors a file; what is there must be empty")
      ->required()
      ->check(not_empty());
  command->add_option("--dtype", flags->dtype, "of the numbers: bf16, f16 or f32 (bf16)");
  command
      ->add_option("--parts", flags->parts,
                   "of transformer, text_encoder and vae those to write, with commas between (all that are there)")
      ->delimiter(',')
      ->check(not_empty());
  add_adapters_flag(*command, flags->loras);
  command->add_flag("--overwrite", flags->overwrite, "replace the file, or the model's folder, that is there");
  add_model_flags(*command, flags->model);
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { convert(*command, *flags); });
}

}  // namespace nostos::cli
