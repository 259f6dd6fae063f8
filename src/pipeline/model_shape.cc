// Reads the shape of a model.
#include "pipeline/model_shape.h"

#include "families/registry.h"

namespace nostos {

ModelShape read_model_shape(const std::filesystem::path& folder) { return read_family_shape(folder); }

}  // namespace nostos
