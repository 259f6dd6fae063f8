// Owns what denoising begins with: the latents of each image, which are noise, the request's own, or those of an image
// with noise. draw() calls it before the first step of an image.
#pragma once

#include "pipeline/drawing.h"

namespace nostos {

/// Memory of the initial latents where the drawing begins with an image. f32 [channels, height, width]
struct SourceMemory {
  View clean{};  ///< the latents of the image
  View noise{};  ///< that they are mixed with
  View level{};  ///< f32 [1]: the noise level of the first step

  /// \return memory for one picture after the other; null views where the drawing begins with no image.
  static SourceMemory take(Arena& arena, const Drawing& drawing);
};

/// state <- the image's initial latents, the same on every rank. All ranks call it.
/// \param encoding of the image that the drawing begins with, null without
/// \param host f32 [channels, height, width] in host memory: room for what the host makes
/// \param memory is filled, too, where there is an encoding. Its noise level must be there
/// \param state on this rank's device, of the same shape and dtype
/// \throws Error invalid_input, on rank 0, for latents that were not read; resolve() has checked shape and values
void fill_initial_state(Drawing& drawing, const PicturePlace& place, ConstView encoding, const SourceMemory& memory,
                        View host, View state);

}  // namespace nostos
