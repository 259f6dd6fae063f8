// Owns where the weights of a model's parts come from: a folder in the diffusers layout, or random numbers. A family
// calls it to check and to load its parts.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "device/context.h"
#include "families/family.h"
#include "io/json_config.h"
#include "models/weight_builder.h"

namespace nostos {

/// A part's folder inside the model's folder, and the class that model_index.json must name for the part.
using PartClass = std::pair<std::string_view, std::string_view>;

/// Compares the classes that model_index.json names with the classes of `parts`. A part that only one of the two names
/// does not matter.
/// \throws Error model
void check_part_classes(const std::filesystem::path& folder, std::span<const PartClass> parts);

/// \throws Error model unless one of `parts` has the variant. Without the check a misspelt variant would draw with
/// plain weights.
void require_variant(const FamilyOptions& options, std::span<const std::string_view> parts);

/// How far a walk over a part's weights goes.
enum class WeightWalk { check, load };

/// \param part the part's folder inside the model's folder
/// \param nested_in a prefix that a checkpoint may put before all names of the part, and the first tensor by which the
/// prefix is found: {"model.", "embed_tokens.weight"}; empty: no prefix
/// \return a builder that checks or loads the weights of the part.
WeightBuilder weights_of(Context& ctx, const FamilyOptions& options, std::string_view part, WeightWalk walk,
                         const WeightPlacement& placement = {}, std::pair<std::string, std::string> nested_in = {});

}  // namespace nostos
