// Implements the shared feed-forward layer.
#include "nn/feed_forward.h"

#include "ops/elementwise.h"

namespace nostos::nn {

FeedForwardScratch FeedForwardScratch::take(Arena& arena, int64_t ffn, int64_t tokens, DType dtype) {
  return {nostos::take(arena, ops::product_dtype(arena.device(), dtype), {tokens, 2 * ffn}),
          nostos::take(arena, dtype, {tokens, ffn})};
}

void feed_forward(Context& ctx, const FeedForwardWeights& w, ConstView x, const FeedForwardScratch& s, View projected,
                  bool accumulate) {
  ops::linear(ctx, x, w.gate_up, s.gate_up);
  ops::silu_mul(ctx, s.gate_up, s.product);
  ops::linear(ctx, s.product, w.down, projected, accumulate);
}

}  // namespace nostos::nn
