// Owns the way from a model folder to its shape: what plans and checks of requests need to know of a model that is not
// loaded.
#pragma once

#include <filesystem>

#include "families/model_shape.h"

namespace nostos {

/// Reads the configs of the model alone. \throws Error model naming file and field
ModelShape read_model_shape(const std::filesystem::path& folder);

}  // namespace nostos
