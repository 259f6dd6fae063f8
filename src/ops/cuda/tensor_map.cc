// Implements tensor maps, which only the driver can make: it is asked through the runtime, so that nothing links with
// it.
#include "ops/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "base/error.h"
#include "device/cuda/check.h"

namespace nostos::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
  constexpr unsigned kSince = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault, &found),
             "cannot ask the driver for tensor maps");
  require(found == cudaDriverEntryPointSuccess && function != nullptr, ErrorKind::device,
          "the NVIDIA driver is too old for tensor maps: CUDA 12 or newer is needed");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap tensor_map(const TiledTensor& tensor) {
  static const Encode encode = find_encode();
  constexpr uint64_t kElementBytes = 2;
  const auto columns = static_cast<cuuint64_t>(tensor.columns), rows = static_cast<cuuint64_t>(tensor.rows);
  const cuuint64_t sizes[] = {columns, rows, static_cast<cuuint64_t>(tensor.planes)};
  const auto stride_bytes = [](int64_t given, cuuint64_t dense) {
    return (given > 0 ? static_cast<cuuint64_t>(given) : dense) * kElementBytes;
  };
  const cuuint64_t strides_bytes[] = {stride_bytes(tensor.row_stride, columns),
                                      stride_bytes(tensor.plane_stride, rows * columns)};
  const cuuint32_t tile[] = {static_cast<cuuint32_t>(tensor.tile_columns), static_cast<cuuint32_t>(tensor.tile_rows),
                             static_cast<cuuint32_t>(tensor.tile_planes)};
  const cuuint32_t every_element[] = {1, 1, 1};
  check(tensor.tile_columns == 64 || tensor.tile_columns == 32, "a tile has rows of 128 or 64 bytes");
  CUtensorMap map;
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(tensor.data), sizes,
                                 strides_bytes, tile, every_element, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 tensor.tile_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS, ErrorKind::internal, "no tensor map of [{}, {}, {}] at {}: driver status {}",
          tensor.planes, tensor.rows, tensor.columns, tensor.data, static_cast<int>(status));
  return map;
}

}  // namespace nostos::cuda
