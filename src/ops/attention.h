// Owns scaled dot-product attention and the step before it: head norms, rotary embedding and the split into heads.
#pragma once

#include <span>

#include "device/context.h"
#include "ops/capabilities.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Which channels a rotary pair joins.
enum class RotaryPairs {
  interleaved,  ///< (2i, 2i + 1): Z-Image
  half_split,   ///< (i, i + head_dim / 2): Qwen3
};

/// What is done to q and k heads before they are attended to; without tables they stay as they are.
struct RotaryHeads {
  ConstView q_norm = {}, k_norm = {};  ///< f32 [head_dim] RMSNorm weights, or null for none
  float eps = 0;                       ///< of these norms
  ConstView cos = {}, sin = {};        ///< f32 [tokens, head_dim / 2], or null for no rotation (then no norms either)
  RotaryPairs pairs = RotaryPairs::interleaved;
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
/// \param groups where the heads go, in order: the first group takes the first heads, and so on; all f32 or all bf16. A
/// packed group may be qkv itself, of the same dtype: each head is read before it is written.
void split_heads_rope(Context& ctx, ConstView qkv, const RotaryHeads& rotary, std::span<const HeadGroup> groups);

/// What is attended to: f32 or bf16.
struct QueriesKeysValues {
  ConstView q;     ///< [heads, queries, head_dim]
  ConstView k, v;  ///< [kv_heads, keys, head_dim]
};

/// How a query and a key are scored: by scale * q . k.
struct Scoring {
  float scale = 1;
  /// Whether of both 8-bit numbers are multiplied: those of quantise_heads(), queries a row at a time, keys less
  /// their key_centres(), which changes no softmax. For heads that rounds_attention() names, without a causal mask.
  bool is_rounded = false;

  Scoring(float factor, bool rounded = false) : scale(factor), is_rounded(rounded) {}
};

/// out[t, h] = softmax(scale * q[h, t] . k[g]^T) v[g] with g = h / (heads / kv_heads); float32 softmax and sums. If
/// `causal`, query t sees keys 0..t (as many queries as keys). A query's result depends on that query and the keys
/// alone. Memory beyond the operands is O(keys) a thread, and that of the numbers where heads are rounded.
/// \param out [queries, heads * head_dim] of q's dtype.
void attention(Context& ctx, const QueriesKeysValues& heads, const Scoring& scoring, bool causal, View out);

/// What is taken off a head's keys before they are rounded: the mean of every n-th key from the first on, the fewest n
/// with at most kMostCentreKeys of them. Key i of those is added to sum i % 16, then the sums in their order; so the
/// bits are the same on every device.
/// \param k f32 or bf16 [kv_heads, keys, head_dim]. \param centres f32 [kv_heads, head_dim]
void key_centres(Context& ctx, ConstView k, View centres);
inline constexpr int64_t kMostCentreKeys = 256, kCentreSums = 16;

/// How heads are rounded to 8 bits.
struct HeadRounding {
  int64_t shared_rows = 1;  ///< of a head that have one scale: 1 or kKeysAScale
  ConstView centres{};      ///< f32 [heads, head_dim], taken off first, or null
};
/// As many keys have one scale: scores are then made of sums by a factor for all of them.
inline constexpr int64_t kKeysAScale = 80;

/// Rounds heads to 8 bits: scale = the largest magnitude of the rows that share it / 127, number = element * (127 /
/// that magnitude) to the nearest, halves to even. The bits are the same on every device. A GPU takes heads of 128.
/// \param heads f32 or bf16 [heads, tokens, head_dim]. \param numbers i8 [heads, tokens, head_dim]
/// \param scales f32 [heads, as many as the tokens of a head have]
void quantise_heads(Context& ctx, ConstView heads, const HeadRounding& rounding, View numbers, View scales);

/// Where a run of a result's rows goes, on another GPU maybe.
struct RowTarget {
  int64_t first = 0, count = 0;
  std::byte* to = nullptr;  ///< row `first`
  int64_t stride = 0;       ///< elements from a row to the next
};
inline constexpr size_t kMostRowTargets = 24;  ///< what a kernel takes as parameters

/// How many heads stand side by side in a row of a projection: q heads, then k heads, then v heads.
struct HeadCounts {
  int64_t q = 0, kv = 0;
  int64_t all() const { return q + 2 * kv; }
};

/// attention() of a projection's heads where they lie, which saves moving them: what split_heads_rope() does is done in
/// place. Gives the bits of these two. Without a causal mask. For heads that packs_attention() names.
/// \param qkv [tokens, heads.all() * head_dim], overwritten unless rotary has no tables and nothing is rounded: then
/// heads are attended to as they are. \param out [tokens, heads.q * head_dim] of qkv's dtype.
void packed_attention(Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts heads, const Scoring& scoring,
                      View out);
/// The same with results that go to several places. \param out rows of heads.q * head_dim elements of qkv's dtype; at
/// most kMostRowTargets runs, which hold every token once.
void packed_attention_to(Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts heads, const Scoring& scoring,
                         std::span<const RowTarget> out);

/// Attention over a part of the keys, to be merged with the other parts.
/// \param heads with at least one key. \param out f32 [queries, heads * head_dim].
/// \param log_sum_exp f32 [heads, queries]: log of the sum of exp(scale * q . k) over these keys.
void attention_part(Context& ctx, const QueriesKeysValues& heads, float scale, View out, View log_sum_exp);

/// Merges attention over two sets of keys into that over both: each weighs exp(its log-sum-exp).
/// \param part f32 as out, \param out f32 [queries, heads * head_dim] and \param log_sum_exp f32 [heads, queries] in
/// place. Source: Ring Attention, arXiv 2310.01889; Flash-Decoding's reduction.
void merge_attention(Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp);

}  // namespace nostos::ops
