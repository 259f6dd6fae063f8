// Owns what denoising begins with: the latents of each image, which are noise or the request's own. draw() calls it
// before the first step of an image.
#pragma once

#include "pipeline/drawing.h"

namespace nostos {

/// state <- the image's initial latents, the same on every rank. All ranks call it.
/// \param host f32 [channels, height, width] in host memory: room for what the host makes
/// \param state on this rank's device, of the same shape and dtype
/// \throws Error invalid_input, on rank 0, for latents that were not read; resolve() has checked shape and values
void fill_initial_state(Drawing& drawing, const PicturePlace& place, View host, View state);

}  // namespace nostos
