// Implements the Qwen3 text encoder. Source: transformers modeling_qwen3.py.
#include "models/qwen3/encoder.h"

#include <string>

#include "base/error.h"
#include "nn/rope.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "tensor/transfer.h"

namespace nostos::qwen3 {
namespace {

/// x += attention(norm(x)); x += ffn(norm(x)). \param x f32 [tokens, hidden], in place.
void layer_forward(Context& ctx, const Config& c, const LayerWeights& w, View x, const Scratch& s) {
  ctx.throw_if_cancelled();
  ops::rms_norm(ctx, x, w.input_norm, {}, c.norm_eps, s.normed);
  w.visit.begin(ctx);
  nn::attention(ctx, c.attention_shape(), w.attention, s.normed, s.rope, s.attention, x, true);
  ops::rms_norm(ctx, x, w.post_attention_norm, {}, c.norm_eps, s.normed);
  nn::feed_forward(ctx, w.feed_forward, s.normed, s.feed_forward, x, true);
  w.visit.end(ctx);
}

}  // namespace

Scratch Scratch::take(Arena& arena, const Config& c, int64_t tokens, DType dtype) {
  return {nostos::take(arena, dtype, {tokens, c.hidden}),
          nn::AttentionScratch::take(arena, c.attention_shape(), tokens, dtype),
          nn::FeedForwardScratch::take(arena, c.feed_forward_shape(), tokens, dtype), nn::RopeTable::take(arena, tokens, c.head_dim),
          nostos::take(arena, DType::i32, {tokens})};
}

void Encoder::encode(Context& ctx, std::span<const int32_t> ids, const Scratch& scratch, View features,
                     const nn::Probe& probe) const {
  const int64_t tokens = static_cast<int64_t>(ids.size());
  for (const int32_t id : ids) {
    require(id >= 0 && id < config_.vocabulary, ErrorKind::model,
            "the tokenizer gave id {}, the text encoder's vocabulary ends at {}: they do not belong together", id,
            config_.vocabulary - 1);
  }
  nn::fill_sequence_rope(ctx, config_.rope_theta, scratch.rope);
  upload(ctx, {reinterpret_cast<const std::byte*>(ids.data()), DType::i32, {tokens}}, scratch.ids);
  ops::embed(ctx, weights_.embedding, scratch.ids, features);
  if (probe) probe("embed_tokens", features);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    layer_forward(ctx, config_, weights_.layers[i], features, scratch);
    if (probe) probe("layers." + std::to_string(i), features);
  }
}

}  // namespace nostos::qwen3
