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

std::vector<nn::ShardedSequence> sequences_of(std::span<const PromptRows> prompts) {
  std::vector<nn::ShardedSequence> sequences;
  for (const PromptRows& prompt : prompts) sequences.emplace_back(prompt.all());
  return sequences;
}

}  // namespace

Scratch Scratch::take(Arena& arena, const Config& c, std::span<const PromptRows> prompts, DType dtype) {
  const std::vector<nn::ShardedSequence> sequences = sequences_of(prompts);
  const std::vector<const nn::ShardedSequence*> pointers = nn::pointers_to(sequences);
  const int64_t rows = nn::rows_of(pointers);
  const bool has_stream = c.feature_layers.size() > 1;
  return {has_stream ? nostos::take(arena, DType::f32, {rows, c.hidden}) : View{},
          nostos::take(arena, dtype, {rows, c.hidden}),
          nn::AttentionScratch::take(arena, c.attention_shape(), pointers, dtype),
          nn::FeedForwardScratch::take(arena, c.feed_forward_shape(), rows, dtype),
          nostos::take(arena, DType::i32, {rows})};
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

void Encoder::encode(Context& ctx, std::span<const PromptRows> prompts, const Scratch& scratch, View features,
                     const nn::Probe& probe) const {
  const std::vector<nn::ShardedSequence> rows = sequences_of(prompts);
  std::vector<nn::AttendedSequence> sequences;
  for (size_t i = 0; i < prompts.size(); ++i)
    sequences.push_back({&rows[i], rope_.first(prompts[i].all()), prompts[i].pads});
  const View x = scratch.x ? scratch.x : features;
  const int64_t all = x.shape()[0], width = std::ssize(config_.feature_layers);
  ops::embed(ctx, weights_.embedding, scratch.ids, x);
  if (probe) probe("embed_tokens", x);
  int64_t feature = 0;
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    layer_forward(ctx, config_, sequences, weights_.layers[i], x, scratch);
    if (probe) probe("layers." + std::to_string(i), x);
    if (!scratch.x || config_.feature_layers[static_cast<size_t>(feature)] != static_cast<int64_t>(i) + 1) continue;
    const ops::RowRun run{0, feature++, 1};
    ops::copy_rows(ctx, x.reshape({all, 1, config_.hidden}), features.reshape({all, width, config_.hidden}), {&run, 1});
  }
}

}  // namespace nostos::qwen3
