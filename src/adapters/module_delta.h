// Owns what the tensors of one module of an adapter file say together: of which kind they are, whether they fit each
// other, and the change of the module's weight.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <variant>

#include "adapters/adapter.h"
#include "adapters/adapter_key.h"
#include "adapters/tensor_values.h"
#include "io/tensor_file.h"

namespace nostos {

/// The tensors of one module.
struct AdapterModule {
  std::string name;                         ///< canonical, with its prefix
  std::map<AdapterRole, std::string> keys;  ///< of the file

  bool has(AdapterRole role) const { return keys.contains(role); }
  const std::string& key(AdapterRole role) const { return keys.at(role); }
};

enum class DeltaKind { low_rank, kronecker, hadamard, difference };

/// \return as people call it, e.g. "LoKr".
std::string_view name(DeltaKind kind);

/// What the shapes of a module's tensors say.
struct DeltaShape {
  DeltaKind kind = DeltaKind::low_rank;
  MatrixShape weight;  ///< that it changes
  int64_t rank = 0;    ///< of a factor that is a product of two; 0 without one
  std::string key;     ///< a tensor that shows the weight's shape, for messages
};

/// \return the kind and shape, nothing if the module has no change of its weight.
/// \throws Error model naming the file and the tensor: a half is missing, factors or ranks disagree, or a rank is
/// larger than both sides of the weight; the module is of two kinds
std::optional<DeltaShape> delta_shape(const TensorFile& file, const AdapterModule& module);

using Delta = std::variant<LowRank, Kronecker, Dense>;

/// \return the change of all rows of the weight, without its scale, in the form that takes the fewest numbers. LoHa is
/// a low rank or dense; LoKr is a Kronecker product or, with long factors of low rank, a low rank.
/// \throws Error model: a tensor of a type that is not read
Delta read_delta(const TensorFile& file, const AdapterModule& module, const DeltaShape& shape);

/// \return DoRA's lengths of the rows or columns of a weight of `weight`'s shape. Shapes [out], [out, 1] say rows and
/// [1, in] columns; where that fits not, the axis that the number fits.
/// \throws Error model naming the tensor with both shapes if it fits neither
Magnitude read_magnitude(const TensorFile& file, const std::string& key, const MatrixShape& weight);

}  // namespace nostos
