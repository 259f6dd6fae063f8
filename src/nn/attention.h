// Owns the attention layer that models share: projections, head norms, rotary embedding, attention, output projection.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/context.h"
#include "nn/rope.h"
#include "nn/sharded_sequence.h"
#include "ops/attention.h"
#include "ops/int8_linear.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::nn {

/// What fixes an attention layer's shape and variant.
struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float norm_eps = 1e-5f;
  ops::RotaryPairs pairs = ops::RotaryPairs::interleaved;
  bool causal = false;
  bool rounds_scores = false;  ///< whether scores are products of 8-bit numbers: see ops::Scoring

  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// Weights of one stream of rows.
struct AttentionWeights {
  Linear qkv;        ///< [qkv_width, hidden]: q, k and v rows stacked
  ConstView q_norm;  ///< f32 [head_dim] or null
  ConstView k_norm;
  Linear out;  ///< [hidden, heads * head_dim]
};

/// One of the sequences whose rows stand one after the other in what a layer works on.
struct AttendedSequence {
  const ShardedSequence* sequence = nullptr;
  RopeTable rope;    ///< of this rank's rows
  int64_t pads = 0;  ///< rows at the end that attend to the rows before, and that no row attends to: on one rank alone
};

/// Memory in which a sequence is attended to.
struct HeadScratch {
  View q;  ///< [heads, tokens, head_dim]; q, k and v are null where the sequence is sharded or heads stay in place
  View k;  ///< [kv_heads, tokens, head_dim]
  View v;  ///< [kv_heads, tokens, head_dim]
  ShardedSequence::Scratch exchange;
};

/// Memory of one attention layer for a number of tokens.
struct AttentionScratch {
  View qkv;                        ///< ops::product_dtype() [tokens, qkv_width]
  View mixed;                      ///< [tokens, heads * head_dim]
  std::vector<HeadScratch> heads;  ///< of each sequence, all in the same memory: they take turns

  /// For this rank's rows of `sequences`. \param dtype of everything but qkv: the dtype of the weights.
  static AttentionScratch take(Arena& arena, const AttentionShape& shape,
                               std::span<const ShardedSequence* const> sequences, DType dtype);
};

/// What a layer reads and writes: rows of all its sequences.
struct AttentionRows {
  ops::ProductRows x;       ///< [rows, hidden]
  View projected;           ///< f32, or ops::product_dtype() if not accumulating [rows, hidden]
  bool accumulate = false;  ///< whether the result is added to what stands there
};

/// s.mixed = attention(rope(norm(qkv(x)))): attention() below without its last product. \param x as AttentionRows.
void attend(Context& ctx, std::span<const AttendedSequence> sequences, const AttentionShape& shape,
            std::span<const AttentionWeights> streams, const ops::ProductRows& x, const AttentionScratch& s);
/// projected (+)= out(attention(rope(norm(qkv(x))))) for this rank's rows of several sequences, each attending to all
/// of itself. A row depends on its own sequence alone, bit for bit. Never allocates; waits for the peers where there
/// are any.
/// \param shape without a causal mask and grouped heads where a sequence is sharded or has several streams.
/// \param streams weights of all rows, or of each stream of the sequences' segments, whose heads attend together.
/// \param s for these sequences. \throws Error peer_failed
void attention(Context& ctx, std::span<const AttendedSequence> sequences, const AttentionShape& shape,
               std::span<const AttentionWeights> streams, const AttentionRows& rows, const AttentionScratch& s);

}  // namespace nostos::nn
