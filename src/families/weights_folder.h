// Owns where the weights of a model's parts come from: a folder in the diffusers layout, or random numbers.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "device/context.h"
#include "families/family.h"
#include "io/json_config.h"
#include "models/weight_builder.h"

namespace nostos {

/// A part's folder in the model's, and the class that model_index.json must name for it.
using PartClass = std::pair<std::string_view, std::string_view>;

/// Compares the classes that model_index.json names with those of the parts. Parts that it does not name, and those that
/// are not in `parts`, do not matter. \throws Error model
void check_part_classes(const std::filesystem::path& folder, std::span<const PartClass> parts);

/// \throws Error model unless one of `parts` has the variant: a misspelt one would be drawn with plain weights.
void require_variant(const FamilyOptions& options, std::span<const std::string_view> parts);

/// How far a walk over a part's weights goes.
enum class WeightWalk { check, load };

/// \param part the folder in the model's \param nested_in a prefix that a checkpoint may put before all names of the
/// part, found by its first tensor: {"model.", "embed_tokens.weight"}; empty: none
/// \return a builder that checks or loads the weights of the part.
WeightBuilder weights_of(Context& ctx, const FamilyOptions& options, std::string_view part, WeightWalk walk,
                         const WeightPlacement& placement = {}, std::pair<std::string, std::string> nested_in = {});

}  // namespace nostos
