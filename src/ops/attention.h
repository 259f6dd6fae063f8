// Owns scaled dot-product attention and the step before it: head norms, rotary embedding and the split into heads.
#pragma once

#include <span>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Which channels a rotary pair joins.
enum class RotaryPairs {
  interleaved,  ///< (2i, 2i + 1): Z-Image
  half_split,   ///< (i, i + head_dim / 2): Qwen3
};

/// Heads of one kind as they lie in memory.
struct HeadRows {
  std::byte* data = nullptr;  ///< the first head's first token; null where nobody wants them
  int64_t heads = 0, tokens = 0, head_dim = 0;
  int64_t head_stride = 0, token_stride = 0;  ///< elements from one to the next
};

/// Some of a layer's heads and where they go, head-major or token-major. May have none, and may have shapes without
/// memory: such heads are passed over.
struct HeadGroup {
  View q;            ///< [heads, tokens, head_dim]
  View k, v;         ///< [kv_heads, tokens, head_dim]
  View packed = {};  ///< instead of these [tokens, 3, heads, head_dim]: a token's q, k and v heads side by side

  bool is_packed() const { return packed.shape().rank() > 0; }
  /// \return all of the group's memory, or its first part.
  View first() const { return is_packed() ? packed : q; }
  /// \return the q (0), k (1) or v (2) heads.
  HeadRows part(int kind) const;
};

/// Splits packed projections into heads; normalises q and k per head and rotates them.
/// \param qkv f32 or product_dtype() [tokens, (heads + 2 * kv_heads) * head_dim]: q heads, then k heads, then v heads.
/// \param q_norm, k_norm f32 [head_dim] RMSNorm weights, or null for none.
/// \param cos, sin f32 [tokens, head_dim / 2], or null for no rotation (then without norms either).
/// \param groups where the heads go, in order: the first group takes the first heads, and so on; all f32 or all bf16.
void split_heads_rope(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, std::span<const HeadGroup> groups);

/// out[t, h] = softmax(scale * q[h, t] . k[g]^T) v[g] with g = h / (heads / kv_heads); float32 softmax and sums. If
/// `causal`, query
/// t sees keys 0..t (as many queries as keys). Memory beyond the operands is O(keys) a thread.
/// \param q [heads, queries, head_dim], k, v [kv_heads, keys, head_dim], f32 or bf16. \param out same dtype [queries,
/// heads * head_dim].
void attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out);

/// \return whether packed_attention() serves such heads on `device`.
bool packs_attention(Device device, DType dtype, int64_t head_dim, bool causal);

/// Where a run of a result's rows goes, on another GPU maybe.
struct RowTarget {
  int64_t first = 0, count = 0;
  std::byte* to = nullptr;  ///< row `first`
  int64_t stride = 0;       ///< elements from a row to the next
};
inline constexpr size_t kMostRowTargets = 24;  ///< what a kernel takes as parameters

/// attention() of a projection's heads where they lie, which saves moving them: what split_heads_rope() does is done in
/// place. Gives the bits of these two. Without a causal mask.
/// \param qkv [tokens, (heads + 2 * kv_heads) * head_dim], overwritten unless cos and sin are null: then heads are
/// attended to as they are. \param q_norm ... pairs as split_heads_rope().
/// \param out rows of heads * head_dim elements of qkv's dtype; at most kMostRowTargets runs, which hold every token once.
void packed_attention(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, int64_t heads, int64_t kv_heads, float scale,
                      std::span<const RowTarget> out);
/// \param out [tokens, heads * head_dim] of qkv's dtype.
void packed_attention(Context& ctx, View qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, RotaryPairs pairs, int64_t heads, int64_t kv_heads, float scale, View out);

/// Attention over a part of the keys, to be merged with the other parts.
/// \param q, k, v as attention(), at least one key. \param out f32 [queries, heads * head_dim].
/// \param log_sum_exp f32 [heads, queries]: log of the sum of exp(scale * q . k) over these keys.
void attention_part(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out, View log_sum_exp);

/// Merges attention over two sets of keys into that over both: each weighs exp(its log-sum-exp).
/// \param part f32 as out, \param out f32 [queries, heads * head_dim] and \param log_sum_exp f32 [heads, queries] in
/// place. Source: Ring Attention, arXiv 2310.01889; Flash-Decoding's reduction.
void merge_attention(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp);

}  // namespace nostos::ops
