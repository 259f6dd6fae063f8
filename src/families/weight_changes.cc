// Implements the finding and sizing of changes.
#include "families/weight_changes.h"

#include <algorithm>
#include <optional>
#include <set>
#include <variant>

#include "base/error.h"
#include "base/rounding.h"
#include "ops/linear_update.h"

namespace nostos {
namespace {

size_t elements(const Matrix& matrix) { return static_cast<size_t>(matrix.rows * matrix.columns); }

/// \return whether each row has one change, and lengths are those of rows: then the lengths are factors of outputs.
bool scales_rows_alone(const Linear& weight, std::span<const WeightChange> changes) {
  std::vector<int> changes_of_row(static_cast<size_t>(weight.out), 0);
  for (const WeightChange& change : changes) {
    const std::optional<Magnitude>& magnitude = change.update->magnitude;
    if (magnitude && magnitude->axis == Magnitude::Axis::each_column) return false;
    for (int64_t row = change.begin; row < change.end; ++row)
      if (++changes_of_row[static_cast<size_t>(change.row_in_weight(row))] > 1) return false;
  }
  return true;
}

}  // namespace

WeightChanges find_changes(const ChangeableWeights& weights, std::span<const ScaledAdapter> adapters) {
  WeightChanges found;
  for (const auto& [adapter, strength] : adapters) {
    for (const WeightUpdate& update : adapter->updates) {
      if (update.part != weights.part || weights.storage.unneeded.contains(update.target)) continue;
      if (weights.storage.vectors.contains(update.target)) {
        found.vectors[update.target].emplace_back(&update, strength);
        continue;
      }
      const auto [first, last] = weights.table.equal_range(update.target);
      require(first != last, ErrorKind::model,
              "{}: changes {}, which is no matrix of a product: nostos convert --lora merges it into the weights",
              adapter->report.file, update.target);
      for (auto place = first; place != last; ++place) {
        const NamedRows& rows = *place->second.rows;
        const int64_t begin = std::max(update.first_row, rows.from_row);
        const int64_t end = std::min(update.first_row + update.rows, rows.from_row + rows.count);
        if (begin < end) found.matrices[place->second.weight].push_back({&update, strength, &rows, begin, end});
      }
    }
  }
  return found;
}

UpdateForm form_of(const Linear& weight, std::span<const WeightChange> changes) {
  const bool has_lengths =
      std::ranges::any_of(changes, [](const WeightChange& change) { return change.update->magnitude.has_value(); });
  const bool is_merged = has_lengths && !scales_rows_alone(weight, changes);
  return {is_merged, has_lengths && !is_merged};
}

size_t update_bytes(const Linear& weight, std::span<const WeightChange> changes) {
  const UpdateForm form = form_of(weight, changes);
  const size_t number = size_bytes(weight.input);
  const auto of_whole = static_cast<size_t>(weight.out * weight.in) * number;
  if (form.is_merged) return of_whole;
  size_t bytes = form.has_lengths ? static_cast<size_t>(weight.out) * sizeof(float) : 0;
  bool has_difference = false;
  std::set<std::pair<const Matrix*, int64_t>> downs;  // with their first columns: updates that share one have it once
  int64_t rank = 0;
  for (const WeightChange& change : changes) {
    const auto& delta = change.update->delta;
    if (const auto* low_rank = std::get_if<LowRank>(&delta)) {
      if (downs.emplace(low_rank->down.get(), change.place->from_column).second) rank += low_rank->down->rows;
    } else if (const auto* product = std::get_if<Kronecker>(&delta);
               product != nullptr && change.is_whole_in_columns(weight)) {
      bytes += elements(*product->left) * sizeof(float) + elements(*product->right) * number;
    } else {
      has_difference = true;
    }
  }
  bytes += static_cast<size_t>(round_up(rank, ops::kRankMultiple) * (weight.in + weight.out)) * number;
  return bytes + (has_difference ? of_whole : 0);
}

}  // namespace nostos
