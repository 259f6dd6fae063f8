// Owns the ways in which files name the tensors of a Z-Image transformer.
#pragma once

#include <span>
#include <string_view>

#include "models/checkpoint_layout.h"

namespace nostos::zimage {

/// \return diffusers' names; the model's own, which ComfyUI's files and most GGUF files have; those of
/// stable-diffusion.cpp's converter.
std::span<const CheckpointLayout> file_layouts();

/// \return what may stand before all names, in the order to try.
std::span<const std::string_view> file_prefixes();

/// \return the layouts of control networks: that of the published files, which is diffusers', and ComfyUI's. What may
/// stand before their names is what may stand before a transformer's.
std::span<const CheckpointLayout> control_file_layouts();

}  // namespace nostos::zimage
