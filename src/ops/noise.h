// Owns the noise that PyTorch makes on a GPU.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// out = torch.randn(out.elements(), generator=torch.Generator("cuda").manual_seed(seed)): Philox 4x32-10 as PyTorch
/// lays it out on a GPU of 132 multiprocessors (H100, H200), whatever the device here. Bit for bit on a GPU of compute
/// capability 9.0, elsewhere within 1e-6. \param out f32, any shape.
/// \param offset the sum of philox_advance() of the generator's earlier draws, a multiple of 4
void philox_normal(Context& ctx, uint64_t seed, View out, uint64_t offset = 0);

/// Threads of PyTorch's grid for `elements` values on such a GPU, each with a Philox sequence of its own that gives
/// four values a round, a grid apart. Source: calc_execution_policy of ATen/native/cuda/DistributionTemplates.h.
constexpr int64_t kPhiloxBlock = 256;
constexpr int64_t philox_threads(int64_t elements) {
  constexpr int64_t kMaxBlocks = 132 * (2048 / kPhiloxBlock);
  const int64_t blocks = (elements + kPhiloxBlock - 1) / kPhiloxBlock;
  return (blocks < kMaxBlocks ? blocks : kMaxBlocks) * kPhiloxBlock;
}

/// \return what a draw of `elements` values, of any floating type but f64, adds to the generator's offset: four words a
/// round of the grid, of which every thread makes four values. Source: as above. A draw of no values adds nothing.
constexpr uint64_t philox_advance(int64_t elements) {
  if (elements == 0) return 0;
  return static_cast<uint64_t>((elements - 1) / (philox_threads(elements) * 4) + 1) * 4;
}

}  // namespace nostos::ops
