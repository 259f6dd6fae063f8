// Owns the sinusoidal features of a time.
#pragma once

#include <span>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// out[i] = (cos(t_i f_0), ..., cos(t_i f_h), sin(t_i f_0), ...) with f_k = max_period^(-k / half), all in float32.
/// Source: diffusers TimestepEmbedder, transformer_z_image.py @58eb52c0 (max_period 10000).
/// \param out f32 [times, features], features even.
void timestep_features(Context& ctx, std::span<const float> times, View out);

}  // namespace nostos::nn
