// Owns cutting a file's change of one matrix into changes of the targets whose rows it is made of.
#pragma once

#include <span>
#include <vector>

#include "adapters/adapter.h"
#include "adapters/module_delta.h"

namespace nostos {

/// A module's change, whole.
struct WholeUpdate {
  Delta delta;
  double scale = 1;
  std::optional<Magnitude> magnitude;
  int64_t columns = 0;
};

/// \return the change of each target in `pieces`: one for pieces that lie side by side in their target, in whatever
/// order the file has them; of a Kronecker product one for each piece. What pieces of one matrix have in common they
/// share.
/// \param pieces all rows of the matrix, or some, by their first row in the file
std::vector<WeightUpdate> cut_rows(const WholeUpdate& whole, std::span<const TargetRows> pieces);

}  // namespace nostos
