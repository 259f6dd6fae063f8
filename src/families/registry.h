// Owns the list of model families: which of them a model folder belongs to.
#pragma once

#include <filesystem>
#include <memory>

#include "device/context.h"
#include "families/family.h"

namespace nostos {

/// Reads every config and the tokenizer of a model folder, and checks names, shapes and dtypes of all weights; loads
/// none. \throws Error model naming file and field
std::unique_ptr<Family> open_family(Context& ctx, const FamilyOptions& options);

/// \return the shape of the model, from its configs alone. \throws Error model naming file and field
ModelShape read_family_shape(const std::filesystem::path& folder);

}  // namespace nostos
