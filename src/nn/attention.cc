// Implements the shared attention layer.
#include "nn/attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace nostos::nn {

namespace {

HeadScratch take_heads(Arena& arena, const AttentionShape& shape, int64_t tokens, DType dtype) {
  using nostos::take;
  return {take(arena, dtype, {shape.heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          take(arena, dtype, {shape.kv_heads, tokens, shape.head_dim}),
          {}};
}

float score_scale(const AttentionShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

bool is_packed(Device device, DType dtype, const AttentionShape& shape, const ShardedSequence& sequence) {
  return !sequence.is_sharded() && ops::packs_attention(device, dtype, shape.head_dim, shape.causal);
}

/// mixed = attention(rope(norm(qkv))) of one sequence that this rank has to itself.
void attend(Context& ctx, const AttentionShape& shape, View qkv, const ops::RotaryHeads& rotary, const HeadScratch& s,
            View mixed) {
  if (!s.q) return ops::packed_attention(ctx, qkv, rotary, {shape.heads, shape.kv_heads}, score_scale(shape), mixed);
  ops::split_heads_rope(ctx, qkv, rotary, std::array{ops::HeadGroup{s.q, s.k, s.v}});
  ops::attention(ctx, {s.q, s.k, s.v}, score_scale(shape), shape.causal, mixed);
}

}  // namespace

AttentionScratch AttentionScratch::take(Arena& arena, const AttentionShape& shape,
                                        std::span<const ShardedSequence* const> sequences, DType dtype) {
  const int64_t tokens = rows_of(sequences);
  AttentionScratch s{nostos::take(arena, ops::product_dtype(arena.device(), dtype), {tokens, shape.qkv_width()}),
                     nostos::take(arena, dtype, {tokens, shape.heads * shape.head_dim}),
                     {}};
  const size_t begin = arena.used_bytes();
  size_t end = begin;
  for (const ShardedSequence* sequence : sequences) {
    arena.rewind(begin);
    if (sequence->is_sharded())
      s.heads.push_back({{}, {}, {}, sequence->take(arena, dtype)});
    else
      s.heads.push_back(is_packed(arena.device(), dtype, shape, *sequence)
                            ? HeadScratch{}
                            : take_heads(arena, shape, sequence->rows(), dtype));
    end = std::max(end, arena.used_bytes());
  }
  arena.rewind(end);
  return s;
}

void attention(Context& ctx, std::span<const AttendedSequence> sequences, const AttentionShape& shape,
               const AttentionWeights& w, ConstView x, const AttentionScratch& s, View projected, bool accumulate) {
  check(s.heads.size() == sequences.size(), "each sequence has its memory");
  ops::linear(ctx, x, w.qkv, s.qkv);
  int64_t begin = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& [sequence, rope] = sequences[i];
    const View qkv = s.qkv.rows(begin, sequence->rows()), mixed = s.mixed.rows(begin, sequence->rows());
    const ops::RotaryHeads rotary{w.q_norm, w.k_norm, shape.norm_eps, rope.cos, rope.sin, shape.pairs};
    if (sequence->is_sharded()) {
      check(!shape.causal && shape.kv_heads == shape.heads,
            "a sharded sequence has neither a causal mask nor grouped heads");
      sequence->attend(ctx, qkv, rotary, score_scale(shape), s.heads[i].exchange, mixed);
    } else {
      attend(ctx, shape, qkv, rotary, s.heads[i], mixed);
    }
    begin += sequence->rows();
  }
  ops::linear(ctx, s.mixed, w.out, projected, accumulate);
}

}  // namespace nostos::nn
