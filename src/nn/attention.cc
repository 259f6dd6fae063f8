// Implements the shared attention layer.
#include "nn/attention.h"

#include <array>
#include <cmath>

#include "base/error.h"

namespace nostos::nn {

AttentionScratch AttentionScratch::take(Arena& arena, const AttentionShape& shape, int64_t tokens, DType dtype) {
  using nostos::take;
  return {take(arena, ops::product_dtype(arena.device(), dtype), {tokens, shape.qkv_width()}),
          take(arena, dtype, {shape.heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          take(arena, dtype, {tokens, shape.heads * shape.head_dim}),
          {}};
}

AttentionScratch AttentionScratch::take(Arena& arena, const AttentionShape& shape, const ShardedSequence& sequence,
                                        DType dtype) {
  if (!sequence.is_sharded()) return take(arena, shape, sequence.rows(), dtype);
  using nostos::take;
  AttentionScratch s;
  s.qkv = take(arena, ops::product_dtype(arena.device(), dtype), {sequence.rows(), shape.qkv_width()});
  s.mixed = take(arena, dtype, {sequence.rows(), shape.heads * shape.head_dim});
  s.exchange = sequence.take(arena, dtype);
  return s;
}

namespace {

float score_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

}  // namespace

void attention(Context& ctx, const AttentionShape& shape, const AttentionWeights& w, ConstView x, const RopeTable& rope,
               const AttentionScratch& s, View projected, bool accumulate) {
  ops::linear(ctx, x, w.qkv, s.qkv);
  ops::split_heads_rope(ctx, s.qkv, w.q_norm, w.k_norm, shape.norm_eps, rope.cos, rope.sin, shape.pairs,
                        std::array{ops::HeadGroup{s.q, s.k, s.v}});
  ops::attention(ctx, s.q, s.k, s.v, score_scale(shape), shape.causal, s.mixed);
  ops::linear(ctx, s.mixed, w.out, projected, accumulate);
}

void attention(Context& ctx, const ShardedSequence& sequence, const AttentionShape& shape, const AttentionWeights& w,
               ConstView x, const RopeTable& rope, const AttentionScratch& s, View projected) {
  if (!sequence.is_sharded()) return attention(ctx, shape, w, x, rope, s, projected);
  check(!shape.causal && shape.kv_heads == shape.heads,
        "a sharded sequence has neither a causal mask nor grouped heads");
  ops::linear(ctx, x, w.qkv, s.qkv);
  sequence.attend(ctx, s.qkv, w.q_norm, w.k_norm, shape.norm_eps, rope.cos, rope.sin, shape.pairs, score_scale(shape),
                  s.exchange, s.mixed);
  ops::linear(ctx, s.mixed, w.out, projected);
}

}  // namespace nostos::nn
