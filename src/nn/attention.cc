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

ops::Scoring scoring_of(const AttentionShape& shape) {
  return {static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim))), shape.rounds_scores};
}

bool is_packed(Device device, DType dtype, const AttentionShape& shape, const ShardedSequence& sequence) {
  return !sequence.is_sharded() && ops::packs_attention(device, dtype, shape.head_dim, shape.causal);
}

/// \return tokens [first, first + count) of `groups`: head-major, only the tokens of one head are neighbours.
std::vector<ops::HeadGroup> tokens_of(std::span<const ops::HeadGroup> groups, int64_t first, int64_t count) {
  std::vector<ops::HeadGroup> some;
  for (const ops::HeadGroup& group : groups) {
    if (group.is_packed()) {
      some.push_back({{}, {}, {}, group.packed.rows(first, count)});
      continue;
    }
    const Shape& shape = group.q.shape();
    check(group.k.shape() == shape, "rows of several streams have no grouped heads");
    for (int64_t head = 0; head < shape[0]; ++head) {
      const auto of = [&](View heads) {
        return heads.rows(head, 1).reshape({shape[1], shape[2]}).rows(first, count).reshape({1, count, shape[2]});
      };
      some.push_back({of(group.q), of(group.k), of(group.v)});
    }
  }
  return some;
}

std::vector<StreamRows> rows_by_stream(std::span<const AttendedSequence> sequences, size_t streams) {
  std::vector<const ShardedSequence*> all;
  for (const AttendedSequence& each : sequences) all.push_back(each.sequence);
  return stream_rows(all, streams);
}

/// \return memory of `heads` for `count` of its tokens alone, behind what `first` tokens take.
View some_tokens(View heads, int64_t first, int64_t count) {
  const Shape& shape = heads.shape();
  const int64_t token = shape[0] * shape[2];
  return heads.reshape({shape.elements()}).rows(first * token, count * token).reshape({shape[0], count, shape[2]});
}

/// One sequence in a layer: what its heads are made of.
struct Projected {
  Context& ctx;
  const AttentionShape& shape;
  std::span<const AttentionWeights> streams;
  std::vector<StreamRows> stream_rows;  ///< of the sequence's rows
  View qkv;
  RopeTable rope;
  int64_t pads;  ///< see AttendedSequence

  /// \return how a stream's heads of some rows are normalised and rotated.
  ops::RotaryHeads rotary(const AttentionWeights& w, int64_t begin, int64_t count) const {
    const RopeTable angles = rope.rows(begin, count);
    return {w.q_norm, w.k_norm, shape.norm_eps, angles.cos, angles.sin, shape.pairs};
  }

  /// Brings the heads of some rows to `groups`, each stream's by its own norms.
  void split(const parallel::Range& rows, std::span<const ops::HeadGroup> groups) const {
    for (const auto& [stream, of_stream] : stream_rows) {
      const int64_t begin = std::max(rows.begin, of_stream.begin);
      const int64_t count = std::min(rows.end(), of_stream.end()) - begin;
      if (count <= 0) continue;
      const AttentionWeights& w = streams[stream];
      const auto split_to = [&](std::span<const ops::HeadGroup> to) {
        ops::split_heads_rope(ctx, qkv.rows(begin, count), rotary(w, begin, count), to);
      };
      if (count == rows.count)
        split_to(groups);
      else
        split_to(tokens_of(groups, begin - rows.begin, count));
    }
  }

  /// mixed = attention(rope(norm(qkv))) of a sequence that this rank has to itself.
  void attend(const HeadScratch& s, View mixed) const {
    const ops::Scoring scoring = scoring_of(shape);
    const parallel::Range all{0, qkv.shape()[0]};
    if (s.q) {
      const int64_t real = all.count - pads;
      const View k = some_tokens(s.k, 0, real), v = some_tokens(s.v, 0, real);
      const ops::HeadGroup tokens{some_tokens(s.q, 0, real), k, v};
      split({0, real}, std::array{tokens});
      ops::attention(ctx, {tokens.q, k, v}, scoring, shape.causal, mixed.rows(0, real));
      if (pads == 0) return;
      const Shape nowhere{shape.kv_heads, pads, shape.head_dim};
      const View none(nullptr, k.dtype(), nowhere);
      const ops::HeadGroup padded{some_tokens(s.q, real, pads), none, none};
      split({real, pads}, std::array{padded});
      return ops::attention(ctx, {padded.q, k, v}, scoring, false, mixed.rows(real, pads));
    }
    const ops::HeadCounts heads{shape.heads, shape.kv_heads};
    if (streams.size() == 1)
      return ops::packed_attention(ctx, qkv, rotary(streams[0], 0, all.count), heads, scoring, mixed);
    // Each stream's heads are normalised and rotated where they lie.
    split(all, std::array{ops::HeadGroup{{}, {}, {}, qkv.reshape({all.count, 3, shape.heads, shape.head_dim})}});
    ops::packed_attention(ctx, qkv, {}, heads, scoring, mixed);
  }
};

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

void attend(Context& ctx, std::span<const AttendedSequence> sequences, const AttentionShape& shape,
            std::span<const AttentionWeights> streams, const ops::ProductRows& x, const AttentionScratch& s) {
  check(s.heads.size() == sequences.size(), "each sequence has its memory");
  for (const auto& [stream, of_stream] : rows_by_stream(sequences, streams.size()))
    ops::multiply(ctx, x.rows(of_stream.begin, of_stream.count), streams[stream].qkv,
                  s.qkv.rows(of_stream.begin, of_stream.count));
  int64_t begin = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& [sequence, rope, pads] = sequences[i];
    const View qkv = s.qkv.rows(begin, sequence->rows()), mixed = s.mixed.rows(begin, sequence->rows());
    const Projected projected{ctx, shape, streams, stream_rows({&sequence, 1}, streams.size()), qkv, rope, pads};
    check((!sequence->is_sharded() && streams.size() == 1) || (!shape.causal && shape.kv_heads == shape.heads),
          "a sequence that is sharded or has several streams has neither a causal mask nor grouped heads");
    check(pads == 0 || s.heads[i].q, "pads are those of a sequence whose heads are moved on one rank");
    if (sequence->is_sharded()) {
      const auto split = [&](const parallel::Range& some, std::span<const ops::HeadGroup> groups) {
        projected.split(some, groups);
      };
      sequence->attend(ctx, split, scoring_of(shape), s.heads[i].exchange, mixed);
    } else {
      projected.attend(s.heads[i], mixed);
    }
    begin += sequence->rows();
  }
}

void attention(Context& ctx, std::span<const AttendedSequence> sequences, const AttentionShape& shape,
               std::span<const AttentionWeights> streams, const AttentionRows& rows, const AttentionScratch& s) {
  attend(ctx, sequences, shape, streams, rows.x, s);
  for (const auto& [stream, of_stream] : rows_by_stream(sequences, streams.size()))
    ops::linear(ctx, s.mixed.rows(of_stream.begin, of_stream.count), streams[stream].out,
                rows.projected.rows(of_stream.begin, of_stream.count), rows.accumulate);
}

}  // namespace nostos::nn
