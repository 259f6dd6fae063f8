// Owns the encoding stage of a drawing: reference images become tokens that every image of the drawing attends to, the
// image that the drawing begins with becomes what its latents are made of, and a control image what a control network
// is given. draw() calls these functions in the order in which they stand here.
#pragma once

#include <memory>
#include <vector>

#include "families/family.h"
#include "parallel/shard_plan.h"
#include "pipeline/drawing.h"

namespace nostos {

/// Memory of the encoding stage.
struct EncodeMemory {
  /// What an image is for.
  enum class Role {
    reference,
    source,  ///< the drawing begins with it
    known,   ///< what the mask keeps of the source, for the control network
    control,
  };
  /// One image.
  struct One {
    size_t index = 0;  ///< of the request's images
    Role role = Role::reference;
    parallel::Grid grid;  ///< of its tokens
    View encoding{};      ///< see Family::encoding_shape()
    View bytes{};         ///< u8 [this rank's rows in pixels, width, 3]; scratch
    View pixels{};        ///< f32, likewise: what the encoder is given
    std::unique_ptr<Encoder> encoder{};
  };
  View references{};  ///< f32 [tokens of all, patch width], one image after the other; null without references
  View source{};      ///< encoding of the image that the drawing begins with; null without. It may be a reference, too.
  View mask{};        ///< f32 [tokens, patch width]: how much of each latent is drawn anew; null without
  View condition{};   ///< of Family::to_condition(); null without control
  ControlInputs control{};  ///< what that is made of
  View is_known{};          ///< of control
  std::vector<One> images{};
};

/// \return the token grid of each reference image of the drawing.
std::vector<parallel::Grid> reference_grids(const Drawing& drawing);

/// Takes the memory of the encodings.
EncodeMemory take_encode_memory(Arena& arena, const Drawing& drawing);
/// Takes scratch memory, which all images use one after the other. The part that encodes must be loaded.
void take_encode_scratch(Arena& arena, const Drawing& drawing, EncodeMemory& memory);

/// Fills memory.references, memory.source, memory.mask and memory.condition, on every rank. Where parts take
/// turns, loads the parts of the stage and takes scratch memory of its own.
/// \throws Error invalid_input for an image that rank 0 was not given, peer_failed
void encode_images(Drawing& drawing, EncodeMemory& memory);

}  // namespace nostos
