// Owns the last computing stage of a drawing: latents become pictures, which come home to rank 0.
#pragma once

#include <memory>
#include <span>

#include "families/family.h"
#include "pipeline/drawing.h"

namespace nostos {

/// Memory of the decoding stage, of one picture after the other.
struct DecodeMemory {
  View decoded;    ///< f32 [this rank's rows, width, 3]
  View quantized;  ///< u8, likewise
  View invalid;    ///< i32 [pictures]: 1 where a decoded value is not finite
  std::unique_ptr<Decoder> decoder;
};

/// The decoder's parts must be loaded. \param pictures of the drawing
DecodeMemory take_decode_memory(Arena& arena, const Drawing& drawing, size_t pictures);

/// Begins to compile what decode() will run, while the picture is being drawn; on one rank alone.
void plan_decode(const Drawing& drawing, std::span<const View> states, const DecodeMemory& memory);

/// Decodes the pictures at `places`, which rank 0 has in drawing.made then. Where parts take turns it loads and releases
/// the decoder's, and takes memory of its own.
/// \param states final latents f32 [channels, height, width] of each, whole on every rank
/// \throws Error invalid_input, on all ranks alike, if latents or pixels are no numbers
void decode(Drawing& drawing, std::span<const PicturePlace> places, std::span<const View> states, DecodeMemory memory);

}  // namespace nostos
