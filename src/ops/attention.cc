// Checks and dispatches attention.
#include "ops/attention.h"

#include "ops/cpu/ops.h"
#include "ops/dispatch.h"

namespace nostos::ops {

void split_heads_rope(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, View q, View k, View v) {
  check(q.shape().rank() == 3 && k.shape().rank() == 3 && k.shape() == v.shape(),
        "heads are [heads, tokens, head_dim]");
  const int64_t tokens = q.shape()[1], head_dim = q.shape()[2];
  check(k.shape()[1] == tokens && k.shape()[2] == head_dim, "queries and keys have the same tokens and head width");
  check(q.dtype() == k.dtype() && q.dtype() == v.dtype(), "q, k and v have one dtype");
  check(qkv.shape() == Shape({tokens, (q.shape()[0] + 2 * k.shape()[0]) * head_dim}),
        "the projection holds q, k and v heads");
  check(!cos || tokens == 0 || cos.shape() == Shape({tokens, head_dim / 2}),
        "rotary tables are [tokens, head_dim / 2]");
  check(static_cast<bool>(cos) == static_cast<bool>(sin) && (!cos || cos.shape() == sin.shape()),
        "cos and sin come together");
  check(cos || !q_norm || tokens == 0, "heads without rotation are not normalised");
  check(static_cast<bool>(q_norm) == static_cast<bool>(k_norm), "q and k are both normalised or neither");
  begin_cpu(ctx, "split_heads_rope");
  cpu::split_heads_rope(ctx, qkv, q_norm, k_norm, eps, cos, sin, pairs, q, k, v);
}

void attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out) {
  check(q.shape().rank() == 3 && k.shape().rank() == 3 && k.shape() == v.shape(),
        "heads are [heads, tokens, head_dim]");
  check(q.shape()[2] == k.shape()[2] && (k.shape()[0] == 0 || q.shape()[0] % k.shape()[0] == 0),
        "query heads share key heads evenly");
  check(q.dtype() == k.dtype() && q.dtype() == v.dtype() && q.dtype() == out.dtype(), "attention has one dtype");
  check(out.shape() == Shape({q.shape()[1], q.shape()[0] * q.shape()[2]}),
        "attention's output is [queries, heads * head_dim]");
  check(!causal || q.shape()[1] == k.shape()[1], "causal attention has as many queries as keys");
  check(q.shape()[1] == 0 || k.shape()[1] > 0, "attention needs a key");
  begin_cpu(ctx, "attention");
  cpu::attention(ctx, q, k, v, scale, causal, out);
}

}  // namespace nostos::ops
