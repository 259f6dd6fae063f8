// Owns the fused attention of one head of 512 channels, the VAE's, on Hopper GPUs.
#pragma once

#include "device/cuda/runtime.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// \return whether wide_attention() serves operands of these extents on a GPU of this compute capability: 9.0, in a build
/// for sm_90a.
bool has_wide_attention(int compute_capability, DType dtype, int64_t heads, int64_t head_dim);

/// out = softmax(scale * q k^T) v, the scores never stored. A query's result does not depend on the number of queries.
/// \param q, k, v as ops::attention() takes them. \param scale above 0. \param out bf16 [queries, 512]
void wide_attention(ConstView q, ConstView k, ConstView v, float scale, View out, CUstream_st* stream);

}  // namespace nostos::cuda
