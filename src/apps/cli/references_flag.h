// Owns how many reference pictures a command may ask for, and --reference-images: references that stand for the user's
// own, for commands that plan or time a drawing.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "pipeline/request.h"

namespace nostos::cli {

/// Throws unless the model takes as many reference pictures. \param flag names them in messages
/// \throws Error invalid_input
void require_references(const char* flag, int64_t count, const ModelLimits& limits);

/// Adds --reference-images; `count` must outlive the command.
void add_references_flag(CLI::App& command, int64_t& count);

/// \return the request with as many reference pictures, each of the size that it draws without them, and before them
/// one to begin with where the request has a strength. The pictures have a size and no pixels.
/// \throws Error as require_references() and resolve()
ResolvedRequest with_references(const GenerationRequest& request, int64_t count, const ModelLimits& limits);

}  // namespace nostos::cli
