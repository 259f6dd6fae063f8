// Owns what a drawing's denoising begins with: the latents of each picture, noise or the request's own.
#pragma once

#include "pipeline/drawing.h"

namespace nostos {

/// state <- the picture's initial latents, the same on every rank, which all call it.
/// \param host f32 [channels, height, width] in host memory: room for what the host makes \param state of this rank's
/// device, likewise \throws Error invalid_input for latents of another shape, or with values that are no numbers
void fill_initial_state(Drawing& drawing, const PicturePlace& place, View host, View state);

}  // namespace nostos
