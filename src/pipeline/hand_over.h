// Owns what one lane of a drawing hands to the next between two steps: all that the next ranks cannot make anew, in
// host memory. draw() makes it on the root where the lane changes, and every rank of the next lane takes it over.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "pipeline/captions.h"
#include "pipeline/drawing.h"
#include "pipeline/preview.h"

namespace nostos {

/// What the stages before denoising have made, on a device. Views are null where there is nothing of the kind.
struct Conditioning {
  View embeddings;                           ///< as CaptionMemory has them
  View references, source, mask, condition;  ///< as EncodeMemory has them
};

/// The same on the host, for all lanes of a drawing.
struct HostConditioning {
  PromptSet prompts{};  ///< without those that are kept
  Tensor embeddings{}, references{}, source{}, mask{}, condition{};
};

struct HandOver {
  std::shared_ptr<const HostConditioning> conditioning{};
  /// Of each request what is drawn so far. The latents of an image that was begun are those after its steps.
  std::vector<Generation> made{};
  std::vector<int64_t> steps_done{};              ///< see Drawing
  RunReport report{};                             ///< of the lanes so far
  std::optional<LatentColors> colors{};           ///< where a lane has learnt them
  std::chrono::steady_clock::time_point since{};  ///< the last step was done
};

/// On the root, once all steps of its lane are done. Waits for the device. The drawing has nothing left afterwards.
std::unique_ptr<HandOver> hand_over(Drawing& drawing, const PromptSet& prompts, const Conditioning& conditioning);

/// conditioning <- what was handed over. Every rank of the next lane calls it.
void take_over(Drawing& drawing, const Conditioning& conditioning);

}  // namespace nostos
