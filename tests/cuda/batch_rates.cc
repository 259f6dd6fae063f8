// Prints what drawing several pictures together gains on the GPU: steps of the full model with random weights.
//   cuda_batch_rates [folder of the model's configs [side in pixels ...]]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/environment.h"
#include "pipeline/engine.h"

namespace {

using namespace nostos;

constexpr int64_t kSteps = 8;

/// What warm drawings take, medians.
struct Times {
  double text_ms = 0, denoise_ms = 0;
  int64_t rows = 0;  ///< of the first forward pass
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

Times measure(Engine& engine, std::span<const GenerationRequest> requests) {
  constexpr int kRuns = 3;
  engine.generate(requests);
  std::vector<double> text_ms, denoise_ms;
  int64_t rows = 0;
  for (int run = 0; run < kRuns; ++run) {
    const RunReport report = engine.generate(requests).front().report;
    for (const StageTime& stage : report.stages) {
      if (stage.name == "text_encoder") text_ms.push_back(stage.ms);
      if (stage.name == "denoise") denoise_ms.push_back(stage.ms);
    }
    rows = report.transformer_rows;
  }
  return {median(text_ms), median(denoise_ms), rows};
}

void print_table(Engine& engine, int64_t side, std::span<const size_t> counts) {
  for (const double guidance : {0.0, 4.0}) {
    double alone_ms = 0;
    for (const size_t count : counts) {
      std::vector<GenerationRequest> requests(count);
      for (size_t i = 0; i < count; ++i) {
        requests[i].prompt = fmt::format("A crowded beach, picture {}", i);
        requests[i].height = requests[i].width = side;
        requests[i].num_inference_steps = kSteps;
        requests[i].guidance_scale = guidance;
        requests[i].seed = i;
      }
      const auto [text_ms, denoise_ms, rows] = measure(engine, requests);
      const double each_ms = denoise_ms / static_cast<double>(kSteps * std::ssize(requests));
      if (count == 1) alone_ms = each_ms;
      fmt::print(
          "{:>4}x{:<4} guidance {}  {} together  {:>5} rows at once  text {:>6.2f} ms  a picture's step {:>7.2f} ms  "
          "{:.2f}x\n",
          side, side, guidance, count, rows, text_ms, each_ms, alone_ms / each_ms);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const char* models = std::getenv("NOSTOS_MODELS_DIR");
    EngineOptions options;
    options.cache_folder = cache_folder();
    options.model = argc > 1 ? std::filesystem::path(argv[1])
                             : std::filesystem::path(models != nullptr ? models : "models") / "z-image-turbo";
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
