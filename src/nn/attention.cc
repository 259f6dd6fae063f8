// Implements the shared attention layer.
#include "nn/attention.h"

#include <array>
#include <cmath>

namespace nostos::nn {

AttentionScratch AttentionScratch::take(Arena& arena, const AttentionShape& shape, int64_t tokens, DType dtype) {
  using nostos::take;
  return {take(arena, DType::f32, {tokens, shape.qkv_width()}),
          take(arena, dtype, {shape.heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          take(arena, dtype, {tokens, shape.heads * shape.head_dim})};
}

void attention(Context& ctx, const AttentionShape& shape, const AttentionWeights& w, ConstView x, const RopeTable& rope,
               const AttentionScratch& s, View projected, bool accumulate) {
  ops::linear(ctx, x, w.qkv, s.qkv);
  ops::split_heads_rope(ctx, s.qkv, w.q_norm, w.k_norm, shape.norm_eps, rope.cos, rope.sin, shape.pairs,
                        std::array{ops::HeadGroup{s.q, s.k, s.v}});
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  ops::attention(ctx, s.q, s.k, s.v, scale, shape.causal, s.mixed);
  ops::linear(ctx, s.mixed, w.out, projected, accumulate);
}

}  // namespace nostos::nn
