// Owns the step from a view's run-time dtype to a C++ type.
#pragma once

#include "base/error.h"
#include "tensor/tensor.h"

namespace nostos::cpu {

/// Calls body(pointer) with `out`'s elements as float* or bfloat16*.
template <class Body>
void with_output(View out, const Body& body) {
  if (out.dtype() == DType::bf16)
    body(out.data<bfloat16>());
  else
    body(out.data<float>());
}

/// \return the elements, or null for an absent view.
template <class T>
const T* optional_data(ConstView view) {
  return view ? view.data<T>() : nullptr;
}

}  // namespace nostos::cpu
