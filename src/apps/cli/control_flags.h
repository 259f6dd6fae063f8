// Owns the flags of the image that a drawing follows: --control-image and what belongs to it.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "pipeline/request.h"

namespace nostos::cli {

/// What the user typed.
struct ControlFlags {
  std::optional<std::string> image, preprocessor;
  std::optional<double> scale, start, end;
};

/// Adds the flags; `flags` must outlive the command.
void add_control_flags(CLI::App& command, ControlFlags& flags);

/// Lays all but the picture over `request`, which may have that of --from. An empty --control-image takes back what the
/// record says.
/// \throws Error invalid_input
void lay_over_control(const ControlFlags& flags, GenerationRequest& request);

/// Gives the request the picture that the flags name, else that of the picture of --from, as the root process reads it.
/// The other processes learn of it by the root's record. No file is read if the model follows none.
/// \throws Error invalid_input
void take_control(const ControlFlags& flags, bool is_root, const ModelLimits& limits, GenerationRequest& request);

}  // namespace nostos::cli
