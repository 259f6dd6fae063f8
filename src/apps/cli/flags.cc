// Implements the flags that several commands share.
#include "apps/cli/flags.h"

#include <charconv>
#include <cstdlib>
#include <utility>

#include "apps/cli/ranks.h"
#include "base/error.h"
#include "base/log.h"
#include "io/model_folder.h"
#include "pipeline/device_choice.h"

namespace nostos::cli {
namespace {

Parallelism parallelism_of(const EngineFlags& flags, const Communicator* processes) {
  require(flags.num_gpus != kAutoGpus, ErrorKind::invalid_input,
          "--num-gpus auto is for generate by one process, which knows the image's size: give a number");
  if (processes == nullptr) return resolve_parallelism(flags, flags.num_gpus, "--num-gpus");
  const int64_t started = processes->world();
  require(!flags.num_gpus || *flags.num_gpus == started, ErrorKind::invalid_input,
          "--num-gpus {} is not the {} processes that were started; leave it out", flags.num_gpus.value_or(0), started);
  return resolve_parallelism(flags, started, "the number of processes");
}

}  // namespace

CLI::Validator not_empty() {
  return CLI::Validator([](const std::string& text) { return text.empty() ? "an empty value" : std::string(); }, "");
}

std::string ModelFlags::named(const std::string& path_or_name) const {
  return revision.empty() ? path_or_name : with_revision(path_or_name, revision);
}

std::string model_path_help(std::string_view without) {
  return fmt::format(
      "model: a folder, a file (safetensors or GGUF, of a transformer or of several parts), or a name in the Hugging "
      "Face cache; without it {}",
      without);
}

void add_model_flags(CLI::App& command, ModelFlags& flags, bool with_weights) {
  command
      .add_option("--revision", flags.revision,
                  "branch, tag or commit of a model in the Hugging Face cache, as in OWNER/NAME@REVISION (main)")
      ->check(not_empty());
  const auto place = [&](const char* flag, std::string& path, const char* help) {
    command.add_option(flag, path, help)->check(not_empty())->type_name("PATH");
  };
  place("--transformer", flags.parts.transformer,
        "file (safetensors or GGUF, of any names) or folder in the place of the model's transformer");
  place("--text-encoder", flags.parts.text_encoder, "likewise of its text encoder");
  place("--vae", flags.parts.vae, "likewise of its VAE");
  place("--tokenizer", flags.parts.tokenizer, "folder or GGUF file in the place of its tokenizer");
  place("--controlnet", flags.parts.controlnet,
        "file or folder of a control network beside the model, by which drawings follow a control image");
  command.add_flag("--base-model", flags.parts.is_base,
                   "files without configs are of the base model, not of the distilled one (Turbo, klein)");
  if (!with_weights) return;
  command
      .add_option("--variant", flags.variant,
                  "weights to take, e.g. fp16 for *.fp16.safetensors (the plain ones, else the only variant)")
      ->check(not_empty());
}
CLI::Validator number_in(double min, double max) {
  const auto check = [min, max](const std::string& text) -> std::string {
    double number = 0;
    const bool is_number = CLI::detail::lexical_cast(text, number);
    if (is_number && number >= min && number <= max) return {};
    return fmt::format("'{}' is no number from {} to {}", text, min, max);
  };
  return {check, ""};
}

template <class T>
CLI::Validator whole_number(T min, T max) {
  const auto check = [min, max](std::string& text) -> std::string {
    const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
    if (text.size() == sign || text.find_first_not_of("0123456789", sign) != std::string::npos)
      return fmt::format("'{}' is no whole number in decimal digits", text);
    T number{};
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data() + (text.front() == '+' ? 1 : 0), end, number);
    if (error != std::errc() || stop != end || number < min || number > max)
      return fmt::format("{} is out of range; use {} to {}", text, min, max);
    text = std::to_string(number);
    return {};
  };
  return {check, ""};
}
template CLI::Validator whole_number(int64_t min, int64_t max);
template CLI::Validator whole_number(uint64_t min, uint64_t max);

void add_engine_flags(CLI::App& command, EngineFlags& flags) {
  command.add_option("--device", flags.device, "auto (GPUs where there are any), cpu, cuda (a GPU a rank) or cuda:N");
  command.add_flag("--allow-shared-gpu", flags.allow_shared_gpu,
                   "let all ranks draw on one GPU where there is none for each");
  command.add_option(
      "--precision", flags.precision,
      "of weights and matrix products: auto, f32, bf16, or int8 (of the transformer's blocks; the rest as with auto)");
  command.add_option("--text-precision", flags.text_precision,
                     "of the text encoder's blocks: auto (as --precision has the rest), or int8");
  command.add_option("--attention-precision", flags.attention_precision,
                     "of the transformer's queries times keys: auto (as --precision, but not in 8 bits), or int8");
  command
      .add_option(
          "--threads", flags.threads,
          "CPU threads; 0: as many as the CPUs that the process may use, by its affinity and its control groups")
      ->transform(whole_number(int64_t{0}, kMaxThreads));
  const auto number = [&](const char* name, auto& value, const char* help) {
    return add_number(command, name, value, help);
  };
  command.add_option(
      "--memory", flags.memory,
      "weights: resident on the device, offload (a GPU streams them from host memory, the CPU loads each "
      "part for its stage), or auto: resident as far as there is room");
  number("--memory-limit", flags.memory_limit_gib,
         "GiB of GPU memory that the process may take (all that is free; with --memory offload 12)")
      ->check(number_in(0, kMaxMemoryGib));
  const auto number_or_auto = [whole = whole_number<int64_t>()](std::string& text) {
    if (text != "auto") return whole(text);
    text = std::to_string(kAutoGpus);
    return std::string();
  };
  command
      .add_option("--num-gpus", flags.num_gpus,
                  "ranks that share a picture, which stays the same; without GPUs they are CPU threads sharing the "
                  "cores; with generate also auto: as many GPUs as draw it soonest (1)")
      ->transform(CLI::Validator(number_or_auto, ""));
  number("--ulysses-degree", flags.ulysses_degree, "ranks that share tokens and heads (what --num-gpus leaves)");
  number("--ring-degree", flags.ring_degree,
         "groups of them around which keys and values travel; rounds differently (1)");
  number("--cfg-parallel-degree", flags.cfg_parallel_degree, "2: the two halves of guidance on ranks of their own (1)");
  command.add_option("--sp-plan", flags.sp_plan, "token: equal ranges of tokens; axis: rectangles (token)");
  command.add_option(
      "--exchange", flags.exchange,
      "between the GPUs of one process: auto (they write to one another's memory where all reach it, else "
      "NCCL) or nccl (auto)");
  command
      .add_option("--comm-timeout", flags.comm_timeout_s,
                  "seconds after which a rank that does not come is given up; 0 waits for ever (0)")
      ->check(number_in(0, kMaxCommTimeout));
}

void add_common_flags(CLI::App& command, CommonFlags& flags) {
  command
      .add_option("--config", flags.config,
                  "TOML file with flags: num-inference-steps = 9; the command line goes first")
      ->configurable(false);
  command.add_option("--log-level", flags.log_level, "debug, info, warning, error or off");
}

void apply_common_flags(CLI::App& command, const CommonFlags& flags,
                        const std::function<std::string(const std::string& file)>& read) {
  if (command.count("--config") > 0) apply_config(command, read(flags.config), flags.config);
  set_log_level(parse_log_level(flags.log_level));
}

bool is_hostile(bool asked, const EngineOptions& options) {
  require(!asked || (options.synthetic && options.synthetic_format.empty()), ErrorKind::invalid_input,
          "--synthetic-hostile is of random bf16 weights: it needs --synthetic, and no --synthetic-format");
  return asked;
}

EngineOptions engine_options(const EngineFlags& flags, const Processes& processes) {
  EngineOptions options = undirected_options(flags, parallelism_of(flags, processes.communicator()));
  const Processes::Place place = processes.place_on_host();
  DeviceChoice choice = choose_device(flags.device, {.ranks = options.parallelism.ranks(),
                                                     .are_processes = processes.communicator() != nullptr,
                                                     .may_share_gpu = flags.allow_shared_gpu,
                                                     .place = place.rank,
                                                     .on_host = place.world,
                                                     .is_shown_one = std::getenv("CUDA_VISIBLE_DEVICES") != nullptr});
  if (!processes.all_have(choice.device.kind == DeviceKind::cuda)) choice = {};
  processes.require_same_device(device_name(choice.device));
  options.device = choice.device;
  options.device_per_rank = choice.per_rank;
  options.threads = processes.threads(flags.threads);
  return options;
}

}  // namespace nostos::cli
