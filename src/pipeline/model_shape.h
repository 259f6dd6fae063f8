// Owns how programs read the shape of a model that is not loaded (families/model_shape.h): they plan and check requests
// by it, and do not see the families themselves.
#pragma once

#include <filesystem>

#include "families/model_shape.h"

namespace nostos {

/// Reads the configs of the model alone. \throws Error model naming file and field
ModelShape read_model_shape(const std::filesystem::path& folder);

}  // namespace nostos
