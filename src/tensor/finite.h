// Owns the check that a tensor's values are numbers. Call it for values that come from a user or a model, before other
// code relies on them.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensor/tensor.h"

namespace nostos {

/// \param values f32 in host memory
/// \return whether none of the values is NaN or infinite
inline bool is_finite(ConstView values) {
  const float* const first = values.data<float>();
  return std::all_of(first, first + values.elements(), [](float value) { return std::isfinite(value); });
}

}  // namespace nostos
