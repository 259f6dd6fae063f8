// Owns the descriptions of tensors by which Hopper's copy engine moves tiles between GPU and shared memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nostos::cuda {

/// bf16 [planes, rows, columns] and the tile of it that one copy moves. What a tile has beyond the tensor is read as
/// zeros and not written.
struct TiledTensor {
  const void* data = nullptr;  ///< a multiple of 16 bytes, as a row
  int64_t planes = 1, rows = 0, columns = 0;
  int64_t row_stride = 0, plane_stride = 0;  ///< elements; 0: dense
  int tile_planes = 1;
  int tile_rows = 0;     ///< at most 256
  int tile_columns = 0;  ///< 64 or 32: 128 or 64 bytes, which is also the span in which shared memory is swizzled
};

/// \throws Error internal for a tensor that cannot be described, device if the driver is too old
CUtensorMap tensor_map(const TiledTensor& tensor);

}  // namespace nostos::cuda
