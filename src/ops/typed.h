// Owns the step from a view's run-time dtype to a C++ type, for the kernels of every device.
#pragma once

#include "tensor/tensor.h"

namespace nostos {

/// Calls body(pointer) with the elements of `view` as f32 or bf16.
template <class Byte, class Body>
void with_elements(BasicView<Byte> view, const Body& body) {
  if (view.dtype() == DType::bf16)
    body(view.template data<bfloat16>());
  else
    body(view.template data<float>());
}

/// \return the elements, or null for an absent view.
template <class T>
const T* optional_data(ConstView view) {
  return view ? view.data<T>() : nullptr;
}

}  // namespace nostos
