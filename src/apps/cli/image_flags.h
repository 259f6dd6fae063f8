// Owns the flags of pictures that a drawing is made from: --image and what belongs to it.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/request.h"

namespace nostos::cli {

/// What the user typed.
struct ImageFlags {
  std::vector<std::string> images;
  std::optional<double> strength, mask_blur;
  std::optional<std::string> mask, fit;
};

/// Adds the flags; `flags` must outlive the command.
void add_image_flags(CLI::App& command, ImageFlags& flags);

/// Lays all but the pictures over `request`, which may have those of --from. A flag that is given empty takes back what
/// the record says.
/// \throws Error invalid_input
void lay_over_images(const ImageFlags& flags, GenerationRequest& request);

/// Gives the request the pictures that the flags name, else those of the picture of --from, as the root process reads
/// them. The other processes learn of them by the root's record. No file is read if the model does not take as many.
/// \throws Error invalid_input
void take_images(const ImageFlags& flags, bool is_root, const ModelLimits& limits, GenerationRequest& request);

/// Says which pictures the drawing takes in another size than they have.
void log_prepared(const ResolvedRequest& resolved);

}  // namespace nostos::cli
