// Owns the last computing stage of a drawing: latents become images, and rank 0 gets the images. draw() calls these
// functions in the order in which they stand here.
#pragma once

#include <memory>
#include <span>

#include "families/family.h"
#include "pipeline/drawing.h"

namespace nostos {

/// Memory of the decoding stage. One image after the other is decoded in it.
struct DecodeMemory {
  View decoded;    ///< f32 [this rank's rows, width, 3]
  View quantized;  ///< u8, likewise
  View invalid;    ///< i32 [pictures]: 1 where a decoded value is not finite
  std::unique_ptr<Decoder> decoder;
};

/// Takes the memory of the stage. The decoder's parts must be loaded.
/// \param pictures number of images of the drawing
DecodeMemory take_decode_memory(Arena& arena, const Drawing& drawing, size_t pictures);

/// Begins to compile what decode() will run, while the image is being denoised. Does so on one rank alone; with several
/// ranks it does nothing.
void plan_decode(const Drawing& drawing, std::span<const View> states, const DecodeMemory& memory);

/// Decodes the images at `places`; rank 0 then has the images in drawing.made. Where parts take turns, decode() loads
/// and releases the decoder's parts and takes memory of its own.
/// \param states final latents f32 [channels, height, width] of each, whole on every rank
/// \throws Error invalid_input, on all ranks alike, if latents or pixels are no numbers
void decode(Drawing& drawing, std::span<const PicturePlace> places, std::span<const View> states, DecodeMemory memory);

}  // namespace nostos
