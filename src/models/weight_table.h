// Owns where a checkpoint's matrices are among a model's loaded weights: how an adapter, or a precision of its own for
// one layer, finds its place.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include "ops/linear.h"

namespace nostos {

/// One matrix of the checkpoint, or a part of it.
struct WeightPlace {
  const Linear* weight = nullptr;   ///< with others stacked beside it, maybe
  const NamedRows* rows = nullptr;  ///< its own among them
};

/// Places by the checkpoint's names without the prefix of a file, several of a matrix that products take in parts. Each
/// model's weights.h makes its own, which points into the weights: it ends with them, and with any move of them.
using WeightTable = std::multimap<std::string, WeightPlace, std::less<>>;

/// Adds the rows of `weights`; those that a model lacks have none. \throws Error internal if a part is there already
void add_places(WeightTable& table, std::initializer_list<const Linear*> weights);

}  // namespace nostos
