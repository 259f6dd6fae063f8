// Implements the shared feed-forward layer.
#include "nn/feed_forward.h"

namespace nostos::nn {

FeedForwardScratch FeedForwardScratch::take(Arena& arena, const GatedShape& shape, int64_t tokens, DType dtype) {
  FeedForwardScratch s;
  if (!ops::fuses_gated_linear(arena.device(), dtype, shape))
    s.gate_up = nostos::take(arena, ops::product_dtype(arena.device(), dtype), {tokens, 2 * shape.ffn});
  s.product = nostos::take(arena, dtype, {tokens, shape.ffn});
  return s;
}

void feed_forward(Context& ctx, const FeedForwardWeights& w, const ops::ProductRows& x, const FeedForwardScratch& s,
                  View projected, bool accumulate) {
  ops::multiply_gated(ctx, x, w.gate_up, s.gate_up, s.product);
  ops::linear(ctx, s.product, w.down, projected, accumulate);
}

}  // namespace nostos::nn
