// Owns the step from a checked op to a kernel: element types, alignment, the device's size.
#pragma once

#include <cstdint>
#include <type_traits>

#include "base/error.h"
#include "base/rounding.h"
#include "device/context.h"
#include "device/cuda/check.h"
#include "device/cuda/runtime.h"
#include "ops/cuda/launch.h"
#include "ops/typed.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

inline int multiprocessors(const Context& ctx) { return device_properties(ctx.device().index).multiprocessors; }

/// \return whether all addresses are those of 16-byte vectors; null is.
template <class... T>
bool is_aligned(const T*... address) {
  return ((reinterpret_cast<uintptr_t>(address) | ...) & 15u) == 0;
}

/// Calls body with kVector as a compile-time constant if `vector` says so, else with 1.
template <class Body>
void with_vector(bool vector, const Body& body) {
  if (vector)
    body(std::integral_constant<int, kVector>{});
  else
    body(std::integral_constant<int, 1>{});
}

inline constexpr int kBlockThreads = 256;

/// \return blocks of kBlockThreads for one thread an item.
inline unsigned blocks_for(int64_t items) { return static_cast<unsigned>(divide_up(items, kBlockThreads)); }

}  // namespace nostos::cuda
