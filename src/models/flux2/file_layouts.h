// Owns the ways in which files name the tensors of a FLUX.2 transformer.
#pragma once

#include <span>
#include <string_view>

#include "models/checkpoint_layout.h"

namespace nostos::flux2 {

/// \return diffusers' names; Black Forest Labs' own, which most single files have; ComfyUI's variant of these.
std::span<const CheckpointLayout> file_layouts();

/// \return what may stand before all names, in the order to try.
std::span<const std::string_view> file_prefixes();

}  // namespace nostos::flux2
