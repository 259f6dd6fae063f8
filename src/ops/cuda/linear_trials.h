// Owns the data on which algorithms of matrix products are tried: random operands and digests of results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda/runtime.h"
#include "tensor/dtype.h"

namespace nostos::cuda {

/// Fills `elements` values of f32 or bf16 with uniform values in [-1, 1) that depend on `seed` and the index alone.
void fill_random(void* data, DType dtype, size_t elements, uint32_t seed, CUstream_st* stream);

/// digests[r] = a hash of the bits of row r. \param row_bytes a multiple of 2.
void digest_rows(const void* data, int64_t rows, size_t row_bytes, uint64_t* digests, CUstream_st* stream);

}  // namespace nostos::cuda
