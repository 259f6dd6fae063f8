// Owns the check that a tensor's values are numbers: for what comes from a user or a model, before others rely on it.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensor/tensor.h"

namespace nostos {

/// \param values f32 in host memory \return whether none of them is NaN or infinite
inline bool is_finite(ConstView values) {
  const float* const first = values.data<float>();
  return std::all_of(first, first + values.elements(), [](float value) { return std::isfinite(value); });
}

}  // namespace nostos
