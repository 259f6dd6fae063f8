// Owns how adapters reach a network's weights: beside them, so that the weights never change. ModelPart calls it.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/adapter.h"
#include "device/context.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"

namespace nostos {

/// An adapter and the factor of its changes.
struct ScaledAdapter {
  std::shared_ptr<const Adapter> adapter;
  double strength = 1;
};

/// \param name of a matrix in the diffusers layout
/// \return its numbers as the checkpoint has them, float32 [rows * columns].
using ReadWeight = std::function<std::vector<float>(const std::string& name)>;

/// A network's weights, as adapters find them.
struct AdaptableWeights {
  std::string_view part;   ///< of the adapters, e.g. "transformer"
  WeightTable table;       ///< of the matrices
  WeightStorage& storage;  ///< with the vectors
  ReadWeight read_weight;  ///< for DoRA, and for vectors
};

/// Gives matrices what the adapters add to them, in place of what other adapters did: low ranks, Kronecker products and
/// differences beside the weight, DoRA's lengths as factors of the outputs. What changes one weight in ways that cannot
/// stand beside each other, e.g. two DoRAs, becomes one difference. Norms, biases and other vectors are written anew,
/// from the checkpoint.
/// \param changed the names of vectors that other adapters have changed; becomes those that these do
/// \throws Error model naming a tensor that an adapter changes and that is neither; out_of_memory
void adapt_weights(Context& ctx, const AdaptableWeights& weights, std::span<const ScaledAdapter> adapters,
                   std::set<std::string>& changed);

}  // namespace nostos
