// Implements the Qwen3 text encoder. Source: transformers modeling_qwen3.py.
#include "models/qwen3/encoder.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "tensor/transfer.h"

namespace nostos::qwen3 {
namespace {

/// x += attention(norm(x)); x += ffn(norm(x)). \param x f32 [tokens, hidden], in place.
void layer_forward(Context& ctx, const Config& c, std::span<const nn::AttendedSequence> sequences,
                   const LayerWeights& w, View x, const Scratch& s) {
  ctx.throw_if_cancelled();
  ops::rms_norm(ctx, x, w.input_norm, {}, c.norm_eps, s.normed);
  w.visit.begin(ctx);
  nn::attention(ctx, sequences, c.attention_shape(), {&w.attention, 1}, {s.normed, x, true}, s.attention);
  ops::rms_norm(ctx, x, w.post_attention_norm, {}, c.norm_eps, s.normed);
  nn::feed_forward(ctx, w.feed_forward, s.normed, s.feed_forward, x, true);
  w.visit.end(ctx);
}

}  // namespace

Scratch Scratch::take(Arena& arena, const Config& c, std::span<const int64_t> lengths, DType dtype) {
  const std::vector<nn::ShardedSequence> sequences(lengths.begin(), lengths.end());
  const std::vector<const nn::ShardedSequence*> pointers = nn::pointers_to(sequences);
  const int64_t tokens = nn::rows_of(pointers);
  return {nostos::take(arena, dtype, {tokens, c.hidden}),
          nn::AttentionScratch::take(arena, c.attention_shape(), pointers, dtype),
          nn::FeedForwardScratch::take(arena, c.feed_forward_shape(), tokens, dtype),
          nostos::take(arena, DType::i32, {tokens})};
}

Encoder::Encoder(Context& ctx, const Config& config, Weights weights, int64_t max_tokens)
    : config_(config), weights_(std::move(weights)), rope_(ctx.device(), max_tokens, config.head_dim) {
  nn::fill_sequence_rope(ctx, config_.rope_theta, rope_.table());
}

void Encoder::take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids, const Scratch& scratch) const {
  std::vector<int32_t> all;
  for (const std::span<const int32_t>& prompt : ids) all.insert(all.end(), prompt.begin(), prompt.end());
  for (const int32_t id : all) {
    require(id >= 0 && id < config_.vocabulary, ErrorKind::model,
            "the tokenizer gave id {}, the text encoder's vocabulary ends at {}: they do not belong together", id,
            config_.vocabulary - 1);
  }
  upload(ctx, {reinterpret_cast<const std::byte*>(all.data()), DType::i32, {std::ssize(all)}}, scratch.ids);
}

void Encoder::encode(Context& ctx, std::span<const int64_t> lengths, const Scratch& scratch, View features,
                     const nn::Probe& probe) const {
  const std::vector<nn::ShardedSequence> prompts(lengths.begin(), lengths.end());
  std::vector<nn::AttendedSequence> sequences;
  for (const nn::ShardedSequence& prompt : prompts) sequences.push_back({&prompt, rope_.first(prompt.rows())});
  ops::embed(ctx, weights_.embedding, scratch.ids, features);
  if (probe) probe("embed_tokens", features);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    layer_forward(ctx, config_, sequences, weights_.layers[i], features, scratch);
    if (probe) probe("layers." + std::to_string(i), features);
  }
}

}  // namespace nostos::qwen3
