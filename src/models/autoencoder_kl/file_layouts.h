// Owns the ways in which files name the tensors of a FLUX-style VAE.
#pragma once

#include <span>
#include <string_view>

#include "models/checkpoint_layout.h"

namespace nostos::autoencoder_kl {

/// \return diffusers' names, today's and those of old files; latent diffusion's, which FLUX.1's `ae.safetensors` has;
/// the variant of FLUX.2, whose quantisation convolutions belong to the encoder and the decoder.
std::span<const CheckpointLayout> file_layouts();

/// \return what may stand before all names, in the order to try.
std::span<const std::string_view> file_prefixes();

}  // namespace nostos::autoencoder_kl
