// Owns what a generation gives: pictures, what they cost, and progress on the way.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/image.h"
#include "pipeline/request.h"
#include "tensor/tensor.h"

namespace nostos {

/// Called from the generating thread. Times are milliseconds of wall clock.
struct Progress {
  std::function<void(int64_t step, int64_t steps, double step_ms)> on_step;  ///< after each denoising step, 1-based
  std::function<void(const char* stage)> on_stage;                           ///< "load", "text", "denoise", "decode"
  const std::atomic<bool>* cancel = nullptr;                                 ///< watched between blocks
  /// Watched by rank 0 at the end of each denoising step, where all ranks leave the drawing together: for ranks that are
  /// processes, which do not see each other's flags and go on to draw with each other.
  const std::atomic<bool>* cancel_together = nullptr;
  /// Rank 0's: whether on_preview is to be called for this step; asked after every step of a picture but its last.
  std::function<bool(int64_t step)> wants_preview;
  /// The picture that a step predicts, roughly: one pixel a latent pixel. Comes before on_step of the step after it.
  std::function<void(int64_t step, const Image& picture)> on_preview;
};

struct StageTime {
  std::string name;  ///< "load", "text_encoder", "denoise", "vae_decode"
  double ms = 0;
};

/// What one rank did.
struct RankReport {
  int64_t rank = 0;
  int64_t image_tokens = 0;
  int64_t heads = 0;
  uint64_t bytes_sent = 0;  ///< to other ranks, in the whole generation
};

/// What a run cost; times and bytes of memory are rank 0's.
struct RunReport {
  std::vector<StageTime> stages;
  std::vector<double> step_ms;    ///< each denoising step of each picture in order
  size_t weight_bytes = 0;        ///< resident weights
  size_t arena_bytes = 0;         ///< planned scratch, the largest part's
  size_t peak_host_bytes = 0;     ///< peak resident set of the process
  int64_t transformer_rows = 0;   ///< this rank's rows of one forward pass of the transformer
  double transformer_flop = 0;    ///< floating-point operations of one denoising step's matrix products (all passes
                                  ///< and ranks)
  std::vector<RankReport> ranks;  ///< in rank order
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

}  // namespace nostos
