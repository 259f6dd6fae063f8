// Checks and dispatches attention.
#include "ops/attention.h"

#include "base/error.h"
#include "ops/backend.h"

namespace nostos::ops {

namespace {

void check_rotary(ConstView q_norm, ConstView k_norm, ConstView cos, ConstView sin, int64_t tokens, int64_t head_dim) {
  check(!cos || tokens == 0 || cos.shape() == Shape({tokens, head_dim / 2}),
        "rotary tables are [tokens, head_dim / 2]");
  check(static_cast<bool>(cos) == static_cast<bool>(sin) && (!cos || cos.shape() == sin.shape()),
        "cos and sin come together");
  check(cos || !q_norm || tokens == 0, "heads without rotation are not normalised");
  check(static_cast<bool>(q_norm) == static_cast<bool>(k_norm), "q and k are both normalised or neither");
}

}  // namespace

void split_heads_rope(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, std::span<const HeadGroup> groups) {
  check(!groups.empty() && groups[0].q.shape().rank() == 3, "heads are [heads, tokens, head_dim]");
  const int64_t tokens = groups[0].q.shape()[1], head_dim = groups[0].q.shape()[2];
  int64_t all_heads = 0;
  for (const auto& [q, k, v] : groups) {
    check(q.shape() == Shape({q.shape()[0], tokens, head_dim}) &&
              k.shape() == Shape({k.shape()[0], tokens, head_dim}) && k.shape() == v.shape(),
          "queries, keys and values of all groups have the same tokens and head width");
    check(q.dtype() == groups[0].q.dtype() && q.dtype() == k.dtype() && q.dtype() == v.dtype(),
          "q, k and v have one dtype");
    all_heads += q.shape()[0] + 2 * k.shape()[0];
  }
  check(qkv.shape() == Shape({tokens, all_heads * head_dim}), "the projection holds q, k and v heads");
  check_rotary(q_norm, k_norm, cos, sin, tokens, head_dim);
  begin(ctx).split_heads_rope(ctx, qkv, q_norm, k_norm, eps, cos, sin, pairs, groups);
}

namespace {

void check_attention(ConstView q, ConstView k, ConstView v, ConstView out) {
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

void attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out) {
  check_attention(q, k, v, out);
  check(q.dtype() == out.dtype(), "attention has one dtype");
  check(!causal || q.shape()[1] == k.shape()[1], "causal attention has as many queries as keys");
  begin(ctx).attention(ctx, q, k, v, scale, causal, out);
}

bool packs_attention(Device device, DType dtype, int64_t head_dim, bool causal) {
  const Backend& backend = backend_of(device);
  return backend.packs_attention != nullptr && backend.packs_attention(device, dtype, head_dim, causal);
}

void packed_attention(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, int64_t heads, int64_t kv_heads, float scale, View out) {
  const int64_t tokens = qkv.shape()[0], all_heads = heads + 2 * kv_heads;
  check(kv_heads > 0 && heads % kv_heads == 0, "query heads share key heads evenly");
  check(qkv.shape()[1] % all_heads == 0, "the projection holds q, k and v heads");
  const int64_t head_dim = qkv.shape()[1] / all_heads;
  check_rotary(q_norm, k_norm, cos, sin, tokens, head_dim);
  check(out.shape() == Shape({tokens, heads * head_dim}) && out.dtype() == qkv.dtype(),
        "attention's output is [queries, heads * head_dim]");
  check(packs_attention(ctx.device(), qkv.dtype(), head_dim, false), "packed attention serves these heads");
  begin(ctx).packed_attention(ctx, qkv, q_norm, k_norm, eps, cos, sin, pairs, heads, kv_heads, scale, out);
}

void attention_part(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out, View log_sum_exp) {
  check_attention(q, k, v, out);
  check(out.dtype() == DType::f32 && log_sum_exp.dtype() == DType::f32, "a part of attention is f32");
  check(log_sum_exp.shape() == Shape({q.shape()[0], q.shape()[1]}), "there is one log-sum-exp a head and query");
  begin(ctx).attention_part(ctx, q, k, v, scale, out, log_sum_exp);
}

void merge_attention(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp) {
  const Shape& lse = log_sum_exp.shape();
  check(part.shape() == out.shape() && part_log_sum_exp.shape() == lse, "merged parts have one shape");
  check(lse.rank() == 2 && out.shape().rank() == 2 && out.shape()[0] == lse[1] &&
            (lse[0] == 0 ? out.shape()[1] == 0 : out.shape()[1] % lse[0] == 0),
        "there is one log-sum-exp a head and query");
  begin(ctx).merge_attention(ctx, part, part_log_sum_exp, out, log_sum_exp);
}

}  // namespace nostos::ops
