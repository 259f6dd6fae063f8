// Owns what a generation gives: images, what they cost, and progress on the way. Those who call Engine::generate()
// include it with engine.h.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/context.h"
#include "io/image.h"
#include "pipeline/lane.h"
#include "pipeline/request.h"
#include "tensor/tensor.h"

namespace nostos {

/// A step of one of a request's images.
struct PictureStep {
  int64_t picture = 0;  ///< from 0
  int64_t step = 0;     ///< from 1

  friend auto operator<=>(const PictureStep&, const PictureStep&) = default;
};

/// Which prompts of a request have more tokens than the request's max_sequence_length. Such a prompt is drawn without
/// its end.
struct PromptsCut {
  bool prompt = false;
  bool negative = false;  ///< never without guidance, which alone reads it

  friend bool operator==(const PromptsCut&, const PromptsCut&) = default;
};

/// What a caller is told while its request is drawn. The generating thread makes the calls, and waits for each. Times
/// are milliseconds of wall clock.
struct Progress {
  /// After each denoising step of each of the request's images, counted from 1. Images that are drawn together end
  /// their steps together; each image's step counts with its part of the time.
  std::function<void(int64_t step, int64_t steps, double step_ms)> on_step;
  std::function<void(const char* stage)> on_stage;  ///< "load", "text", "encode", "denoise", "decode"
  std::function<void(PromptsCut cut)> on_prompts;   ///< once, before the text stage: what of the prompts is drawn
  const std::atomic<bool>* cancel = nullptr;        ///< watched between blocks; of several requests between steps
  /// Rank 0 watches this flag between denoising steps, and all ranks leave the drawing together. For ranks that are
  /// processes: such ranks do not see each other's flags, and go on to draw with each other.
  const std::atomic<bool>* cancel_together = nullptr;
  /// Whether on_preview is to be called for this step. Rank 0 asks after every step of an image but the last.
  std::function<bool(const PictureStep& step)> wants_preview;
  /// What a step predicts, for measuring, on one rank alone: the velocity after guidance, f32 [tokens, patch width] on
  /// the context's device. The step takes what the call leaves there. The call comes before on_step.
  std::function<void(Context& ctx, const PictureStep& step, View velocity)> on_velocity;
  /// The image that a step predicts, roughly: one pixel for each latent pixel. The call comes before the next step's
  /// on_step. There are no previews where parts of the model take turns on the device.
  std::function<void(const PictureStep& step, const Image& picture)> on_preview;
};

struct StageTime {
  std::string name;  ///< "load", "text_encoder", "vae_encode", "denoise", "vae_decode"
  double ms = 0;
};

/// What one rank did.
struct RankReport {
  int64_t rank = 0;
  int64_t image_tokens = 0;
  int64_t heads = 0;
  uint64_t bytes_sent = 0;  ///< to other ranks, while this lane drew
};

/// What one lane did of a drawing.
struct LaneReport {
  Lane lane{};
  int64_t steps_done = 0;  ///< when it began, as LaneStep has them
  double change_ms = 0;    ///< from the end of the last step to the begin of the lane's first; 0 for the first lane
};

/// What a drawing cost, for all its requests together. Times and bytes of memory are rank 0's.
struct RunReport {
  std::vector<StageTime> stages;
  std::vector<double> step_ms;    ///< each denoising step, of all pictures of a batch at once, in order
  size_t weight_bytes = 0;        ///< resident weights
  size_t streamed_bytes = 0;      ///< weights in page-locked host memory, streamed to the GPU
  size_t adapter_bytes = 0;       ///< what adapters add beside the weights, on the device
  size_t arena_bytes = 0;         ///< planned scratch, the largest part's
  size_t peak_host_bytes = 0;     ///< peak resident set of the process
  int64_t transformer_rows = 0;   ///< this rank's rows of a forward pass of the transformer, of the first batch
  double transformer_flop = 0;    ///< floating-point operations of one denoising step's matrix products (all passes
                                  ///< and ranks), of the first batch
  int64_t kept_captions = 0;      ///< captions that earlier drawings had made
  std::vector<RankReport> ranks;  ///< of the last lane, in rank order
  std::vector<LaneReport> lanes;  ///< that drew, in order
};

struct Picture {
  Image image;     ///< 8-bit RGB of the asked size
  Tensor latents;  ///< final state, float32 [1, channels, latent height, latent width] of the drawn size
  uint64_t seed = 0;
};

struct Generation {
  ResolvedRequest resolved;
  std::vector<Picture> pictures;
  PromptsCut cut;
  bool cancelled = false;  ///< while other requests of the drawing went on; then there are no pictures
  RunReport report;
};

}  // namespace nostos
