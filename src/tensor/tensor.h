// Owns dense row-major tensors and the views that ops take. A Tensor owns its memory; a View refers to memory of a
// Tensor, an Arena or a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "device/arena.h"
#include "device/buffer.h"
#include "tensor/bfloat16.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace nostos {

/// Element type of a C++ type.
template <class T>
constexpr DType dtype_of() {
  using U = std::remove_const_t<T>;
  if constexpr (std::is_same_v<U, float>)
    return DType::f32;
  else if constexpr (std::is_same_v<U, double>)
    return DType::f64;
  else if constexpr (std::is_same_v<U, bfloat16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<U, int64_t>)
    return DType::i64;
  else if constexpr (std::is_same_v<U, int32_t>)
    return DType::i32;
  else if constexpr (std::is_same_v<U, int8_t>)
    return DType::i8;
  else {
    static_assert(std::is_same_v<U, uint8_t>);
    return DType::u8;
  }
}

/// A dense row-major tensor that somebody else owns. A view is trivially copyable; its data is null where there is no
/// tensor. `Byte` is std::byte or const std::byte.
template <class Byte>
class BasicView {
 public:
  BasicView() = default;
  BasicView(Byte* data, DType dtype, const Shape& shape) : data_(data), dtype_(dtype), shape_(shape) {}
  /// A writable view serves wherever a read-only one is wanted.
  operator BasicView<const std::byte>() const { return {data_, dtype_, shape_}; }

  Byte* bytes() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t elements() const { return shape_.elements(); }
  size_t size_in_bytes() const { return static_cast<size_t>(elements()) * size_bytes(dtype_); }
  explicit operator bool() const { return data_ != nullptr; }

  /// \return the elements as T. \throws Error internal if the dtype is another.
  template <class T>
  auto* data() const {
    check_dtype(dtype_of<T>());
    using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return reinterpret_cast<Element*>(data_);
  }

  /// \return entries [begin, begin + count) of the outermost axis.
  BasicView rows(int64_t begin, int64_t count) const {
    Shape part{count};
    int64_t row_elements = 1;
    for (int axis = 1; axis < shape_.rank(); ++axis) {
      part.push_back(shape_[axis]);
      row_elements *= shape_[axis];
    }
    check_rows(begin, count);
    Byte* start = data_ == nullptr ? nullptr : data_ + static_cast<size_t>(begin * row_elements) * size_bytes(dtype_);
    return {start, dtype_, part};
  }

  /// \return the same elements with another shape. \throws Error internal if the number of elements differs.
  BasicView reshape(const Shape& shape) const {
    check_elements(shape);
    return {data_, dtype_, shape};
  }

 private:
  void check_dtype(DType wanted) const;
  void check_rows(int64_t begin, int64_t count) const;
  void check_elements(const Shape& shape) const;

  Byte* data_ = nullptr;
  DType dtype_ = DType::f32;
  Shape shape_;
};

using View = BasicView<std::byte>;
using ConstView = BasicView<const std::byte>;

/// Move-only owner of one tensor.
class Tensor {
 public:
  Tensor() = default;
  /// Unspecified contents. \throws Error out_of_memory
  Tensor(Device device, DType dtype, const Shape& shape)
      : buffer_(device, static_cast<size_t>(shape.elements()) * size_bytes(dtype)), dtype_(dtype), shape_(shape) {}

  View view() { return {buffer_.data(), dtype_, shape_}; }
  ConstView view() const { return {buffer_.data(), dtype_, shape_}; }
  operator View() { return view(); }
  operator ConstView() const { return view(); }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  size_t size_in_bytes() const { return buffer_.size_bytes(); }
  template <class T>
  T* data() {
    return view().template data<T>();
  }
  template <class T>
  const T* data() const {
    return view().template data<T>();
  }
  explicit operator bool() const { return buffer_.data() != nullptr; }

 private:
  Buffer buffer_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

/// \return a tensor in `arena` (null data while the arena measures).
View take(Arena& arena, DType dtype, const Shape& shape);

}  // namespace nostos
