// Prints what drawing several pictures together gains on the GPU: steps of the full model with random weights.
//   cuda_batch_rates [folder of the model's configs [side in pixels ...]]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "pipeline/engine.h"

namespace {

using namespace nostos;

/// \return the median milliseconds of the steps of warm drawings, and their rows.
std::pair<double, int64_t> measure(Engine& engine, std::span<const GenerationRequest> requests) {
  constexpr int kRuns = 3;
  engine.generate(requests);
  std::vector<double> step_ms;
  int64_t rows = 0;
  for (int run = 0; run < kRuns; ++run) {
    const RunReport report = engine.generate(requests).front().report;
    step_ms.insert(step_ms.end(), report.step_ms.begin(), report.step_ms.end());
    rows = report.transformer_rows;
  }
  std::ranges::nth_element(step_ms, step_ms.begin() + std::ssize(step_ms) / 2);
  return {step_ms[step_ms.size() / 2], rows};
}

void print_table(Engine& engine, int64_t side, std::span<const size_t> counts) {
  for (const double guidance : {0.0, 4.0}) {
    double alone_ms = 0;
    for (const size_t count : counts) {
      GenerationRequest request;
      request.prompt = "A crowded beach";
      request.height = request.width = side;
      request.num_inference_steps = 8;
      request.guidance_scale = guidance;
      std::vector<GenerationRequest> requests(count, request);
      for (size_t i = 0; i < count; ++i) requests[i].seed = i;
      const auto [step_ms, rows] = measure(engine, requests);
      const double each_ms = step_ms / static_cast<double>(count);
      if (count == 1) alone_ms = each_ms;
      fmt::print("{:>4}x{:<4} guidance {}  {} together  {:>5} rows  step {:>7.2f} ms  a picture {:>7.2f} ms  {:.2f}x\n",
                 side, side, guidance, count, rows, step_ms, each_ms, alone_ms / each_ms);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const char* models = std::getenv("NOSTOS_MODELS_DIR");
    EngineOptions options;
    options.model =
        argc > 1 ? std::string(argv[1]) : std::string(models != nullptr ? models : "models") + "/z-image-turbo";
    options.synthetic = true;
    options.device = {DeviceKind::cuda, 0};
    Engine engine(options);
    std::vector<int64_t> sides{256, 512};
    if (argc > 2) sides.clear();
    for (int i = 2; i < argc; ++i) sides.push_back(std::atoll(argv[i]));
    for (const int64_t side : sides) print_table(engine, side, std::vector<size_t>{1, 2, 4, 8});
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
  return 0;
}
