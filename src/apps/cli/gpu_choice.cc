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
  require(!flags.ulysses_degree && !flags.ring_degree && !flags.cfg_parallel_degree, ErrorKind::invalid_input,
          "--num-gpus auto chooses the degree: leave out --ulysses-degree, --ring-degree and --cfg-parallel-degree, "
          "or give --num-gpus a number");
  const bool is_named = flags.device.find(':') != std::string::npos;
  const int64_t equal = options.device.kind == DeviceKind::cpu ? 0 : equal_gpus(options.device);
  const GpuChoice choice = choose_gpus(work_of(request, shape), is_named ? std::min<int64_t>(equal, 1) : equal);
  log_info("{}", choice.reason);
  options.parallelism = resolve_parallelism(choice.gpus, {}, {}, {}, options.parallelism.plan);
  options.device_per_rank = choice.gpus > 1;
}

}  // namespace nostos::cli
