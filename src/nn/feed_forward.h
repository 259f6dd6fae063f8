// Owns the SwiGLU feed-forward layer that models share.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "ops/int8_linear.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::nn {

struct FeedForwardWeights {
  GatedLinear gate_up;  ///< [ffn, hidden] each
  Linear down;          ///< [hidden, ffn]
};

struct FeedForwardScratch {
  View gate_up;  ///< ops::product_dtype() [tokens, 2 * ffn]; null where ops::fuses_gated_linear()
  View product;  ///< [tokens, ffn] of the weights' dtype

  static FeedForwardScratch take(Arena& arena, const GatedShape& shape, int64_t tokens, DType dtype);
};

/// projected (+)= down(silu(gate(x)) * up(x)). \param x [tokens, hidden]. \param projected f32,
/// or ops::product_dtype() if not accumulating [tokens, hidden].
void feed_forward(Context& ctx, const FeedForwardWeights& w, const ops::ProductRows& x, const FeedForwardScratch& s,
                  View projected, bool accumulate = false);

}  // namespace nostos::nn
