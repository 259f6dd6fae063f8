// Owns the project's own kernels of attention for every GPU: the rotation in place, those between the two products of a
// block of queries, and that of causal heads.
#pragma once

#include <cstdint>

#include "device/cuda/runtime.h"
#include "ops/attention.h"
#include "tensor/tensor.h"

namespace nostos::cuda {

/// What ops::split_heads_rope() does to q and k heads, in place. \param qkv [tokens, heads.all() * head_dim] of heads
/// that has_vector_heads() serves.
void rotate_heads(Context& ctx, View qkv, const ops::RotaryHeads& rotary, ops::HeadCounts heads);

/// probabilities[r, k] = exp(scale * (scores[r, k] - largest of the row)), and their sum a row. A row's result does
/// not depend on the number of rows. \param scores f32 [rows, keys]. \param probabilities f32 or bf16 [rows, keys];
/// f32 may be scores itself. \param sums f32 [rows]. \param log_sum_exp f32 [rows], or null.
void softmax_rows(ConstView scores, float scale, View probabilities, float* sums, float* log_sum_exp,
                  CUstream_st* stream);

/// out[r, i] = values[r, i] / sums[r].
/// \param values f32 [rows, head_dim]. \param out f32 or bf16, rows out_stride elements apart, at the first head's
/// elements.
void divide_rows(ConstView values, const float* sums, int64_t out_stride, DType out_dtype, std::byte* out,
                 CUstream_st* stream);

/// ops::attention() with a causal mask, for short sequences of heads that no fused kernel takes: a query's result
/// depends on the keys that it sees alone, also on no key's number.
void causal_attention(const ops::QueriesKeysValues& heads, float scale, View out, CUstream_st* stream);

}  // namespace nostos::cuda
