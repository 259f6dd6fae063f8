// Owns the way from a model and some prompts to a file with matrices of 8 bits: every layer is measured, layers are
// chosen, what the choice does to velocities and images is measured, the file is written. `nostos quantize` calls it.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pipeline/engine.h"
#include "quantisation/layer_errors.h"

namespace nostos {

/// The error of a layer's output beyond which the layer is not rounded where nobody says another one.
inline constexpr double kMaxLayerError = 0.1;

struct QuantisationOptions {
  EngineOptions engine;                     ///< of what is compared with, on one rank; not int8
  std::vector<GenerationRequest> requests;  ///< of one image each
  double max_layer_error = kMaxLayerError;
  std::filesystem::path output{};  ///< a file, which is replaced; "": nothing is written
};

/// The velocities of one step of all images.
struct StepErrors {
  double mean_cosine = 0, least_cosine = 1;
  double mean_relative = 0, most_relative = 0;
};

/// An image drawn with rounding, compared with the same one drawn without.
struct ImageError {
  std::string prompt;
  double psnr = 0;  ///< infinite where nothing differs
  double ssim = 0;
};

struct QuantisationReport {
  double max_layer_error = 0;
  std::vector<LayerError> layers{};
  std::vector<StepErrors> steps{};
  std::vector<ImageError> images{};

  double mean_psnr() const;
  double mean_ssim() const;
  /// \return the least cosine of all steps and images.
  double least_cosine() const;
};

struct QuantisationProgress {
  /// Called as the work goes on: "draw" and "compare" count steps, "measure" products, "write" tensors. \param all of
  /// the stage
  std::function<void(const char* stage, int64_t done, int64_t all)> on_work;
  const std::atomic<bool>* cancel = nullptr;
};

/// \throws Error as Engine; invalid_input for the options; device if the device makes no products of 8 bits; as
/// write_int8_transformer()
QuantisationReport quantise(const QuantisationOptions& options, const QuantisationProgress& progress = {});

/// \return the report as JSON, which the file says of itself under this name, too.
std::string report_json(const QuantisationReport& report);
inline constexpr const char* kReportText = "nostos.quantisation";

}  // namespace nostos
