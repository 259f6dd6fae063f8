// Owns the encoding stage of a drawing: reference images become tokens that every image of the drawing attends to.
// draw() calls these functions in the order in which they stand here.
#pragma once

#include <memory>
#include <vector>

#include "families/family.h"
#include "parallel/shard_plan.h"
#include "pipeline/drawing.h"

namespace nostos {

/// Memory of the encoding stage.
struct ReferenceMemory {
  /// One reference image.
  struct One {
    parallel::Grid grid;  ///< of its tokens
    View pixels{};        ///< f32 [this rank's rows in pixels, width, 3]; scratch
    std::unique_ptr<Encoder> encoder{};
  };
  View tokens{};  ///< f32 [tokens of all, patch width], one image after the other; null without references
  std::vector<One> images{};
};

/// \return the token grid of each reference image of the drawing.
std::vector<parallel::Grid> reference_grids(const Drawing& drawing);

/// Takes the memory of the tokens.
ReferenceMemory take_reference_memory(Arena& arena, const Drawing& drawing);
/// Takes scratch memory, which all images use one after the other. The part that encodes must be loaded.
void take_reference_scratch(Arena& arena, const Drawing& drawing, ReferenceMemory& memory);

/// Fills memory.tokens, on every rank. Where parts take turns, loads the parts of the stage and takes scratch memory of
/// its own.
/// \throws Error invalid_input for an image that rank 0 was not given, peer_failed
void encode_references(Drawing& drawing, ReferenceMemory& memory);

}  // namespace nostos
