// Owns the list of model families, and the choice of the family that a model folder belongs to. Open models through it.
#pragma once

#include <memory>

#include "device/context.h"
#include "families/family.h"
#include "families/pipeline_facts.h"

namespace nostos {

/// Reads every config and the tokenizer of a model, and checks names, shapes and dtypes of all weights. Loads no
/// weights.
/// \throws Error model naming file and field
std::unique_ptr<Family> open_family(Context& ctx, const FamilyOptions& options);

/// \return the shape of the model, from its configs alone. \throws Error model naming file and field
ModelShape read_family_shape(const ModelFiles& files);

struct PartKind;

/// \return the kind of the model's transformer, which tells the family. \throws Error model as open_family()
const PartKind& transformer_kind(const FamilyOptions& options);

/// \return what the family of this kind of transformer says of its pipeline, as far as its files do not say it.
/// \throws Error model if what they do say is damaged
PipelineFacts pipeline_facts(const PartKind& transformer, const FamilyOptions& options);

}  // namespace nostos
