// Checks and dispatches attention.
#include "ops/attention.h"

#include "base/error.h"
#include "base/rounding.h"
#include "ops/dispatch.h"

namespace nostos::ops {

namespace {

void check_rotary(const RotaryHeads& rotary, int64_t tokens, int64_t head_dim) {
  const auto& [q_norm, k_norm, eps, cos, sin, pairs] = rotary;
  check(!cos || tokens == 0 || cos.shape() == Shape({tokens, head_dim / 2}),
        "rotary tables are [tokens, head_dim / 2]");
  check(static_cast<bool>(cos) == static_cast<bool>(sin) && (!cos || cos.shape() == sin.shape()),
        "cos and sin come together");
  check(cos || !q_norm || tokens == 0, "heads without rotation are not normalised");
  check(static_cast<bool>(q_norm) == static_cast<bool>(k_norm), "q and k are both normalised or neither");
}

}  // namespace

HeadRows HeadGroup::part(int kind) const {
  if (is_packed()) {
    check(packed.shape().rank() == 4 && packed.shape()[1] == 3, "packed heads are [tokens, 3, heads, head_dim]");
    const int64_t heads = packed.shape()[2], head_dim = packed.shape()[3];
    const size_t begin = static_cast<size_t>(kind * heads * head_dim) * size_bytes(packed.dtype());
    std::byte* data = packed ? packed.bytes() + begin : nullptr;
    return {data, heads, packed.shape()[0], head_dim, head_dim, 3 * heads * head_dim};
  }
  const View& of = kind == 0 ? q : kind == 1 ? k : v;
  check(of.shape().rank() == 3, "heads are [heads, tokens, head_dim]");
  const int64_t tokens = of.shape()[1], head_dim = of.shape()[2];
  return {of.bytes(), of.shape()[0], tokens, head_dim, tokens * head_dim, head_dim};
}

void split_heads_rope(Context& ctx, ConstView qkv, const RotaryHeads& rotary, std::span<const HeadGroup> groups) {
  check(!groups.empty(), "heads go somewhere");
  const HeadRows first = groups[0].part(0);
  const int64_t tokens = first.tokens, head_dim = first.head_dim;
  int64_t all_heads = 0;
  for (const HeadGroup& group : groups) {
    for (int kind = 0; kind < 3; ++kind) {
      const HeadRows heads = group.part(kind);
      check(heads.tokens == tokens && heads.head_dim == head_dim,
            "queries, keys and values of all groups have the same tokens and head width");
      all_heads += heads.heads;
    }
    check(group.is_packed() || group.k.shape() == group.v.shape(), "there are as many keys as values");
    check(group.first().dtype() == groups[0].first().dtype() &&
              (group.is_packed() || (group.q.dtype() == group.k.dtype() && group.q.dtype() == group.v.dtype())),
          "q, k and v have one dtype");
  }
  check(qkv.shape() == Shape({tokens, all_heads * head_dim}), "the projection holds q, k and v heads");
  check_rotary(rotary, tokens, head_dim);
  dispatch<split_heads_rope>(ctx, qkv, rotary, groups);
}

namespace {

void check_attention(const QueriesKeysValues& heads, ConstView out) {
  const auto& [q, k, v] = heads;
  check(q.shape().rank() == 3 && k.shape().rank() == 3 && k.shape() == v.shape(),
        "heads are [heads, tokens, head_dim]");
  check(q.shape()[2] == k.shape()[2] && (k.shape()[0] == 0 || q.shape()[0] % k.shape()[0] == 0),
        "query heads share key heads evenly");
  check(q.dtype() == k.dtype() && q.dtype() == v.dtype(), "attention has one dtype");
  check(out.shape() == Shape({q.shape()[1], q.shape()[0] * q.shape()[2]}),
        "attention's output is [queries, heads * head_dim]");
  check(q.shape()[1] == 0 || q.shape()[0] == 0 || k.shape()[1] > 0, "attention needs a key");
}

}  // namespace

void attention(Context& ctx, const QueriesKeysValues& heads, const Scoring& scoring, bool causal, View out) {
  check_attention(heads, out);
  check(heads.q.dtype() == out.dtype(), "attention has one dtype");
  check(!causal || heads.q.shape()[1] == heads.k.shape()[1], "causal attention has as many queries as keys");
  check(!scoring.is_rounded || (!causal && rounds_attention(ctx.device(), heads.q.dtype(), heads.q.shape()[2])),
        "these heads can be rounded to 8 bits");
  dispatch<attention>(ctx, heads, scoring, causal, out);
}

void key_centres(Context& ctx, ConstView k, View centres) {
  const Shape& shape = k.shape();
  check(shape.rank() == 3 && shape[1] > 0 && centres.dtype() == DType::f32 &&
            centres.shape() == Shape({shape[0], shape[2]}),
        "the keys of each head have a centre");
  dispatch<key_centres>(ctx, k, centres);
}

void quantise_heads(Context& ctx, ConstView heads, const HeadRounding& rounding, View numbers, View scales) {
  const Shape& shape = heads.shape();
  const auto& [shared, centres] = rounding;
  check(shape.rank() == 3 && numbers.shape() == shape && numbers.dtype() == DType::i8 &&
            (shared == 1 || shared == kKeysAScale) &&
            scales.shape() == Shape({shape[0], divide_up(shape[1], shared)}) && scales.dtype() == DType::f32,
        "quantise_heads gives an 8-bit number for each and a scale for each row, or block of rows");
  check(!centres || (centres.dtype() == DType::f32 && centres.shape() == Shape({shape[0], shape[2]})),
        "the rows of each head have a centre");
  dispatch<quantise_heads>(ctx, heads, rounding, numbers, scales);
}

void packed_attention_to(Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts heads, const Scoring& scoring,
                         std::span<const RowTarget> out) {
  const int64_t tokens = qkv.shape()[0];
  check(heads.kv > 0 && heads.q % heads.kv == 0, "query heads share key heads evenly");
  check(qkv.shape()[1] % heads.all() == 0, "the projection holds q, k and v heads");
  const int64_t head_dim = qkv.shape()[1] / heads.all();
  check_rotary(rotary, tokens, head_dim);
  int64_t targets = 0;
  for (const RowTarget& target : out) {
    check(target.first >= 0 && target.count >= 0 && target.first + target.count <= tokens, "targets are of the result");
    targets += target.count;
  }
  check(targets == tokens && out.size() <= kMostRowTargets, "every row goes somewhere");
  check(packs_attention(ctx.device(), qkv.dtype(), head_dim, false), "packed attention serves these heads");
  check(!scoring.is_rounded || rounds_attention(ctx.device(), qkv.dtype(), head_dim),
        "these heads can be rounded to 8 bits");
  dispatch_to_gpu<packed_attention_to>(ctx, qkv, rotary, heads, scoring, out);
}

void packed_attention(Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts heads, const Scoring& scoring,
                      View out) {
  check(out.shape().rank() == 2 && out.shape()[0] == qkv.shape()[0] && out.dtype() == qkv.dtype() &&
            out.shape()[1] * heads.all() == qkv.shape()[1] * heads.q,
        "attention's output is [queries, heads * head_dim]");
  const RowTarget all{0, out.shape()[0], out.bytes(), out.shape()[1]};
  packed_attention_to(ctx, qkv, rotary, heads, scoring, std::span(&all, 1));
}

void attention_part(Context& ctx, const QueriesKeysValues& heads, float scale, View out, View log_sum_exp) {
  check_attention(heads, out);
  check(out.dtype() == DType::f32 && log_sum_exp.dtype() == DType::f32, "a part of attention is f32");
  check(log_sum_exp.shape() == Shape({heads.q.shape()[0], heads.q.shape()[1]}),
        "there is one log-sum-exp a head and query");
  dispatch<attention_part>(ctx, heads, scale, out, log_sum_exp);
}

void merge_attention(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp) {
  const Shape& lse = log_sum_exp.shape();
  check(part.shape() == out.shape() && part_log_sum_exp.shape() == lse, "merged parts have one shape");
  check(lse.rank() == 2 && out.shape().rank() == 2 && out.shape()[0] == lse[1] &&
            (lse[0] == 0 ? out.shape()[1] == 0 : out.shape()[1] % lse[0] == 0),
        "there is one log-sum-exp a head and query");
  dispatch<merge_attention>(ctx, part, part_log_sum_exp, out, log_sum_exp);
}

}  // namespace nostos::ops
