// Owns where adapters' changes go in a network's weights, which form each weight's changes take beside it, and what
// memory that form takes. adapted_weights.h makes the forms; ModelParts plans with their sizes before they are made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/adapter.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"

namespace nostos {

/// An adapter and the factor of its changes.
struct ScaledAdapter {
  std::shared_ptr<const Adapter> adapter;
  double strength = 1;
};

/// A network's weights as changes find them. Of a walk that has made nothing they are enough.
struct ChangeableWeights {
  std::string_view part;         ///< of the adapters, e.g. "transformer"
  const WeightTable& table;      ///< of the matrices
  const WeightStorage& storage;  ///< with the vectors
};

/// Rows of a weight that an adapter's update changes.
struct WeightChange {
  const WeightUpdate* update;
  double strength;
  const NamedRows* place;
  int64_t begin, end;  ///< rows of the checkpoint's matrix

  double factor() const { return strength * update->scale; }
  /// \return where row `row` of the checkpoint's matrix is in the weight.
  int64_t row_in_weight(int64_t row) const { return place->row(row - place->from_row); }
  /// \return whether the update and the weight have the same columns.
  bool is_whole_in_columns(const Linear& weight) const {
    return place->from_column == 0 && weight.in == update->columns;
  }
};

/// The changes of all adapters. It points into them and into the weights.
struct WeightChanges {
  std::map<const Linear*, std::vector<WeightChange>> matrices;
  std::map<std::string, std::vector<std::pair<const WeightUpdate*, double>>> vectors;
};

/// \throws Error model naming a tensor that an adapter changes and that is neither matrix nor vector
WeightChanges find_changes(const ChangeableWeights& weights, std::span<const ScaledAdapter> adapters);

/// How the changes of one weight stand beside it.
struct UpdateForm {
  bool is_merged = false;    ///< as one difference, because they cannot stand beside each other, e.g. two DoRAs
  bool has_lengths = false;  ///< DoRA's, as factors of the outputs
};
UpdateForm form_of(const Linear& weight, std::span<const WeightChange> changes);

/// \return bytes of the LinearUpdate that is made of the changes, on a GPU: the CPU may pack in larger blocks.
size_t update_bytes(const Linear& weight, std::span<const WeightChange> changes);

}  // namespace nostos
