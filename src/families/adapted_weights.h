// Owns how adapters reach a network's weights: beside them, so that the weights never change. ModelPart calls it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/adapter.h"
#include "device/context.h"
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

/// Gives the weights in `table` what the adapters add to them, in place of what other adapters did: low ranks, Kronecker
/// products and differences beside the weight, DoRA's lengths as factors of the outputs. What changes one weight in ways
/// that cannot stand beside each other, e.g. two DoRAs, becomes one difference.
/// \param part of the adapters, e.g. "transformer" \param read_weight called for DoRA alone
/// \throws Error model naming a weight that an adapter changes and that no product reads, e.g. a norm's; out_of_memory
void adapt_weights(Context& ctx, const WeightTable& table, std::string_view part,
                   std::span<const ScaledAdapter> adapters, const ReadWeight& read_weight);

}  // namespace nostos
