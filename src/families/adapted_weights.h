// Owns how adapters reach a network's weights: beside them, so that the weights never change. ModelPart calls it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "device/context.h"
#include "families/weight_changes.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "ops/linear_update.h"

namespace nostos {

/// \param name of a tensor in the diffusers layout
/// \return its numbers as the checkpoint has them, float32 [rows * columns].
using ReadWeight = std::function<std::vector<float>(const std::string& name)>;

/// A network's weights, as adapters find them.
struct AdaptableWeights {
  std::string_view part;   ///< of the adapters, e.g. "transformer"
  WeightTable table;       ///< of the matrices
  WeightStorage& storage;  ///< with the vectors
  ReadWeight read_weight;  ///< for DoRA, and for vectors
};

/// What adapters have made of a network's weights.
struct AppliedAdapters {
  std::vector<std::shared_ptr<const LinearUpdate>> updates;  ///< of the table's places, in its order; null: none
  std::set<std::string> vectors;                             ///< the names of those that are changed
  size_t bytes = 0;                                          ///< of the updates, on the device
};

/// Gives matrices what the adapters add to them, in place of what other adapters did: low ranks, Kronecker products and
/// differences beside the weight, DoRA's lengths as factors of the outputs. What changes one weight in ways that cannot
/// stand beside each other, e.g. two DoRAs, becomes one difference. Norms, biases and other vectors are written anew,
/// from the checkpoint.
/// \param applied what other adapters have made; becomes what these do
/// \throws Error model as find_changes(); out_of_memory
void adapt_weights(Context& ctx, const AdaptableWeights& weights, std::span<const ScaledAdapter> adapters,
                   AppliedAdapters& applied);

/// Gives the same network, loaded anew, what the adapters have made of it before.
void adapt_again(Context& ctx, const AdaptableWeights& weights, std::span<const ScaledAdapter> adapters,
                 const AppliedAdapters& applied);

}  // namespace nostos
