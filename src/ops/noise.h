// Owns the noise that PyTorch makes on a GPU.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// out = torch.randn(out.elements(), generator=torch.Generator("cuda").manual_seed(seed)): Philox 4x32-10 as PyTorch
/// lays it out on a GPU of 132 multiprocessors (H100, H200), whatever the device here. Bit for bit on a GPU of compute
/// capability 9.0, elsewhere within 1e-6. \param out f32, any shape.
/// \param draw which of several draws of so many values from one generator, from 0
void philox_normal(Context& ctx, uint64_t seed, View out, int64_t draw = 0);

/// Threads of PyTorch's grid for `elements` values on such a GPU, each with a Philox sequence of its own that gives
/// four values a round, a grid apart. Source: calc_execution_policy of ATen/native/cuda/DistributionTemplates.h.
constexpr int64_t kPhiloxBlock = 256;
constexpr int64_t philox_threads(int64_t elements) {
  constexpr int64_t kMaxBlocks = 132 * (2048 / kPhiloxBlock);
  const int64_t blocks = (elements + kPhiloxBlock - 1) / kPhiloxBlock;
  return (blocks < kMaxBlocks ? blocks : kMaxBlocks) * kPhiloxBlock;
}

/// \return how many times each thread takes four values for a draw, which then count as taken.
constexpr int64_t philox_rounds(int64_t elements) {
  const int64_t each = 4 * philox_threads(elements);
  return (elements + each - 1) / each;
}

}  // namespace nostos::ops
