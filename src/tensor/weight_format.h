// Owns how a weight's numbers are stored, apart from the type of what they are multiplied with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace nostos {

/// A format of stored numbers. A format of blocks adds its block, scales and rotation to these members; what a matrix
/// takes is asked of size_bytes(), never computed from the element alone.
struct WeightFormat {
  DType element = DType::f32;

  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

/// \return bytes of a stored matrix [rows, columns], with all that its format keeps beside the elements.
inline size_t size_bytes(const WeightFormat& format, int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows * columns) * size_bytes(format.element);
}

}  // namespace nostos
