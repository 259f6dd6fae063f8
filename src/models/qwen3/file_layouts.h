// Owns the ways in which files name the tensors of a Qwen3 text encoder.
#pragma once

#include <span>
#include <string_view>

#include "models/checkpoint_layout.h"

namespace nostos::qwen3 {

/// \return transformers' names, which stand for diffusers' here, and llama.cpp's, which GGUF files have.
std::span<const CheckpointLayout> file_layouts();

/// \return what may stand before all names, in the order to try.
std::span<const std::string_view> file_prefixes();

}  // namespace nostos::qwen3
