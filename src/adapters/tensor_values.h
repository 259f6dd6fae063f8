// Owns taking numbers out of an adapter file: matrices, vectors and single numbers of any plain type, as float32.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "io/tensor_file.h"

namespace nostos {

/// Rows and columns of a file's tensor. A vector is a matrix of one column; extents of 1 behind the second are those of
/// a 1x1 convolution.
struct MatrixShape {
  int64_t rows = 0, columns = 0;
  friend bool operator==(const MatrixShape&, const MatrixShape&) = default;
};

/// \return e.g. "[4, 384]".
std::string to_string(const MatrixShape& shape);

/// \return `file`'s path and the tensor with its shape, for messages.
std::string describe(const TensorFile& file, const std::string& key);

/// \return the shape of the tensor `key`. \throws Error model if it is no matrix or vector, or has no elements
MatrixShape matrix_shape(const TensorFile& file, const std::string& key);

/// \return the tensor as float32.
/// \throws Error model as matrix_shape(), or if it is not of F64, F32, F16, BF16, F8_E4M3 or F8_E5M2, or has a number
/// that is not finite as float32
Matrix read_matrix(const TensorFile& file, const std::string& key);

/// \return the only element of the tensor, of a type as above or an integer's.
/// \throws Error model if it has several, or is not finite
double read_number(const TensorFile& file, const std::string& key);

}  // namespace nostos
