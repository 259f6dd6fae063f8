// Owns the flag --lora, for commands that draw.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::cli {

/// Adds --lora FILE[:SCALE], which may come several times.
void add_adapters_flag(CLI::App& command, std::vector<std::string>& loras);

/// \param loras as --lora gives them; a single empty one asks for none
/// \return the adapters, named as their files without the ending. Reads no file.
/// \throws Error invalid_input for a scale that is no number, or without a file
std::vector<AdapterUse> adapters_of(const std::vector<std::string>& loras);

}  // namespace nostos::cli
