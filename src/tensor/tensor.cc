// Implements the checks of views and arena tensors.
#include "tensor/tensor.h"

#include "base/error.h"

namespace nostos {

template <class Byte>
void BasicView<Byte>::check_dtype(DType wanted) const {
  if (dtype_ != wanted) fail(ErrorKind::internal, "a tensor of {} was read as {}", name(dtype_), name(wanted));
}

template <class Byte>
void BasicView<Byte>::check_rows(int64_t begin, int64_t count) const {
  if (shape_.rank() == 0 || begin < 0 || count < 0 || begin + count > shape_[0]) {
    fail(ErrorKind::internal, "rows [{}, {}) are outside a tensor of shape {}", begin, begin + count,
         to_string(shape_));
  }
}

template <class Byte>
void BasicView<Byte>::check_elements(const Shape& shape) const {
  if (shape.elements() != shape_.elements()) {
    fail(ErrorKind::internal, "a tensor of shape {} cannot be read as {}", to_string(shape_), to_string(shape));
  }
}

template class BasicView<std::byte>;
template class BasicView<const std::byte>;

View take(Arena& arena, DType dtype, const Shape& shape) {
  return {arena.take(static_cast<size_t>(shape.elements()) * size_bytes(dtype)), dtype, shape};
}

}  // namespace nostos
