// Owns a loaded model and turns requests into pictures.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/device.h"
#include "io/image.h"
#include "pipeline/request.h"
#include "tensor/tensor.h"

namespace nostos {

/// Arithmetic of weights and matrix products; sums and the residual stream are float32 in both.
enum class Precision { automatic, f32, bf16 };

struct EngineOptions {
  std::filesystem::path model;  ///< checkpoint folder; for a synthetic model a folder with configs alone
  bool synthetic = false;       ///< random weights of the configs' shapes, made in memory
  Device device;
  Precision precision = Precision::automatic;
  int threads = 0;  ///< CPU threads; 0: all that the process may use
  /// Load the text encoder, transformer and VAE each when its stage comes and release it after: lowest memory, one
  /// picture.
  bool release_parts = false;
};

/// Called from the generating thread. Times are milliseconds of wall clock.
struct Progress {
  std::function<void(int64_t step, int64_t steps, double step_ms)> on_step;  ///< after each denoising step, 1-based
  std::function<void(const char* stage)> on_stage;                           ///< "load", "text", "denoise", "decode"
  const std::atomic<bool>* cancel = nullptr;                                 ///< watched between blocks
};

struct StageTime {
  std::string name;  ///< "load", "text_encoder", "denoise", "vae_decode"
  double ms = 0;
};

/// What a run cost.
struct RunReport {
  std::vector<StageTime> stages;
  std::vector<double> step_ms;   ///< each denoising step of each picture in order
  size_t weight_bytes = 0;       ///< resident weights
  size_t arena_bytes = 0;        ///< planned scratch, the largest part's
  size_t peak_host_bytes = 0;    ///< peak resident set of the process
  int64_t transformer_rows = 0;  ///< rows of one forward pass of the transformer
  double transformer_flop = 0;   ///< floating-point operations of one denoising step's matrix products (all passes)
};

struct Picture {
  Image image;     ///< 8-bit RGB of the asked size
  Tensor latents;  ///< final state, float32 [1, channels, height / 8, width / 8] of the drawn size
  uint64_t seed = 0;
};

struct Generation {
  ResolvedRequest resolved;
  std::vector<Picture> pictures;
  bool prompt_truncated = false;  ///< the prompt was longer than the encoder takes
  RunReport report;
};

/// A model ready to draw. One thread at a time.
class Engine {
 public:
  /// Reads configs and tokenizer, checks and loads every weight (unless options.release_parts).
  /// \throws Error model (file, tensor or field named), device, out_of_memory
  explicit Engine(const EngineOptions& options);
  ~Engine();
  Engine(Engine&&) noexcept;

  const ModelLimits& limits() const;
  /// \return "f32" or "bf16": what the matrix products run in.
  const char* precision_name() const;

  /// \return GFLOP/s of this device's matrix product of `rows` rows with a weight of the transformer's FFN: the
  /// ceiling that the
  /// transformer's own rate is compared with.
  double measure_matmul_gflops(int64_t rows);

  /// \throws Error invalid_input, out_of_memory, cancelled
  Generation generate(const GenerationRequest& request, const Progress& progress = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nostos
