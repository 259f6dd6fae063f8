// Implements the flags that several commands share.
#include "apps/cli/flags.h"

#include "apps/cli/config_file.h"
#include "base/error.h"
#include "base/log.h"

namespace nostos::cli {
namespace {

constexpr int64_t kMaxThreads = 4096;

Precision parse_precision(const std::string& name) {
  if (name == "auto") return Precision::automatic;
  if (name == "f32") return Precision::f32;
  if (name == "bf16") return Precision::bf16;
  fail(ErrorKind::invalid_input, "precision '{}' is unknown; use auto, f32 or bf16", name);
}

Device parse_device(const std::string& name) {
  if (name == "auto" || name == "cpu") return Device{DeviceKind::cpu, 0};
  require(name == "cuda", ErrorKind::invalid_input, "device '{}' is unknown; use auto, cpu or cuda", name);
  fail(ErrorKind::device, "--device cuda: this build has no CUDA backend; use --device cpu");
}

void require_one_rank(const EngineFlags& flags) {
  require(flags.num_gpus == 1 && flags.ulysses_degree == 1, ErrorKind::invalid_input,
          "--num-gpus {} --ulysses-degree {}: this version draws with one rank; both must be 1", flags.num_gpus,
          flags.ulysses_degree);
}

}  // namespace

CLI::Validator not_empty() {
  return CLI::Validator([](const std::string& text) { return text.empty() ? "an empty value" : std::string(); }, "");
}

void add_engine_flags(CLI::App& command, EngineFlags& flags) {
  command.add_option("--device", flags.device, "auto, cpu or cuda");
  command.add_option("--precision", flags.precision, "of weights and matrix products: auto, f32 or bf16");
  command.add_option("--threads", flags.threads, "CPU threads; 0: all that the process may use")
      ->check(not_empty() & CLI::Range(int64_t{0}, kMaxThreads));
  command.add_option("--num-gpus", flags.num_gpus, "ranks that share one picture (this version: 1)")
      ->check(not_empty());
  command
      .add_option("--ulysses-degree", flags.ulysses_degree, "ranks that share the attention heads (this version: 1)")
      ->check(not_empty());
}

void add_common_flags(CLI::App& command, CommonFlags& flags) {
  command
      .add_option("--config", flags.config,
                  "TOML file with flags: num-inference-steps = 9; the command line goes first")
      ->configurable(false);
  command.add_option("--log-level", flags.log_level, "debug, info, warning, error or off");
}

void apply_common_flags(CLI::App& command, const CommonFlags& flags) {
  if (command.count("--config") > 0) apply_config_file(command, flags.config);
  set_log_level(parse_log_level(flags.log_level));
}

EngineOptions engine_options(const EngineFlags& flags) {
  require_one_rank(flags);
  EngineOptions options;
  options.device = parse_device(flags.device);
  options.precision = parse_precision(flags.precision);
  options.threads = static_cast<int>(flags.threads);
  return options;
}

}  // namespace nostos::cli
