// Owns how attention is cut into blocks of queries where no fused kernel serves: a pure function, testable without a
// GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/dtype.h"

namespace nostos::cuda {

/// The most bytes of scores and probabilities at a time.
inline constexpr int64_t kScoreBytes = int64_t{3} << 29;

/// \return the number of queries that are attended for at once: as many as fill a GPU in the product with the values,
/// whose sum over keys is not split, as kScoreBytes allow.
inline int64_t query_block(int64_t queries, int64_t keys, DType dtype) {
  const int64_t score_bytes = dtype == DType::bf16 ? 6 : 4;  // f32 probabilities replace the scores
  const int64_t fitting = std::max<int64_t>(kScoreBytes / (keys * score_bytes) / 64 * 64, 64);
  return std::min({queries, fitting, int64_t{4096}});
}

}  // namespace nostos::cuda
