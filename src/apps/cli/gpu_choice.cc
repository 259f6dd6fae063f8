// Implements `--num-gpus auto`.
#include "apps/cli/gpu_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "pipeline/device_choice.h"

namespace nostos::cli {
namespace {

constexpr int64_t kUsualPromptTokens = 64;  // prompts are not read yet, and their length changes little

void require_no_degrees(const EngineFlags& flags, const char* why, const char* or_else) {
  require(!flags.ulysses_degree && !flags.ring_degree && !flags.cfg_parallel_degree, ErrorKind::invalid_input,
          "{}: leave out --ulysses-degree, --ring-degree and --cfg-parallel-degree{}", why, or_else);
}

/// \return how many GPUs a process can choose from: one that is named alone; 0 without any.
int64_t usable_gpus(const EngineFlags& flags, const EngineOptions& options) {
  if (options.device.kind == DeviceKind::cpu) return 0;
  const bool is_named = flags.device.find(':') != std::string::npos;
  return is_named ? 1 : equal_gpus(options.device);
}

}  // namespace

GpuChoice choose_gpus(const scheduling::Work& work, int64_t available) {
  if (available == 0) return {1, "--num-gpus auto: one rank, for without GPUs ranks share the cores and gain nothing"};
  if (available == 1) return {1, "--num-gpus auto: 1 GPU, for there is no other one of its kind to use"};
  const scheduling::CostModel costs;
  const auto most = static_cast<int>(std::min(available, kMaxRanks));
  const int gpus = costs.fastest_degree(work, most);
  if (gpus == 1)
    return {1, fmt::format("--num-gpus auto: 1 of {} GPUs, for exchanges would take more than others save", available)};
  return {gpus, fmt::format("--num-gpus auto: {} of {} GPUs, expected to take {:.2f} of the time that one takes", gpus,
                            available, costs.total_ms(work, gpus) / costs.total_ms(work, 1))};
}

scheduling::Work work_of(const ResolvedRequest& request, const ModelShape& shape) {
  const int64_t side = shape.token_side();
  const auto tokens = [side](int64_t height, int64_t width) { return height / side * (width / side); };
  int64_t rows = tokens(request.drawn_height, request.drawn_width) +
                 shape.prompt_rows(kUsualPromptTokens, *request.request.max_sequence_length);
  for (const ImageSize& size : request.reference_sizes) rows += tokens(size.height, size.width);
  const int64_t images = request.request.num_outputs;
  return {.rows = rows, .passes = images * (request.is_guided ? 2 : 1), .images = images, .steps = request.steps()};
}

void use_fastest_gpus(const EngineFlags& flags, const ResolvedRequest& request, const ModelShape& shape,
                      EngineOptions& options) {
  require_no_degrees(flags, "--num-gpus auto chooses the degree", ", or give --num-gpus a number");
  const GpuChoice choice = choose_gpus(work_of(request, shape), usable_gpus(flags, options));
  log_info("{}", choice.reason);
  options.parallelism = resolve_parallelism(choice.gpus, {}, {}, {}, options.parallelism.plan);
  options.device_per_rank = choice.gpus > 1;
}

void use_all_gpus(const EngineFlags& flags, const Processes& processes, EngineOptions& options) {
  require(processes.communicator() == nullptr, ErrorKind::invalid_input,
          "--policy deals the ranks of one process: start it without a launcher");
  require_no_degrees(flags, "--policy chooses the degree", "");
  if (flags.num_gpus) return;
  const int64_t gpus = std::clamp<int64_t>(usable_gpus(flags, options), 1, kMaxRanks);
  options.parallelism = resolve_parallelism(gpus, {}, {}, {}, options.parallelism.plan);
  options.device_per_rank = gpus > 1;
}

}  // namespace nostos::cli
