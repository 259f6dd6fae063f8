// Names every tensor of a Qwen3Model.
#include "models/qwen3/weights.h"

namespace nostos::qwen3 {
namespace {

LayerWeights build_layer(const Config& c, WeightBuilder& b, const std::string& name) {
  LayerWeights w;
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const std::string attention = name + ".self_attn.", mlp = name + ".mlp.";
  b.begin_block(BlockUse::once_a_prompt);
  w.attention.qkv = b.stacked({attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight"},
                              {q, kv, kv}, c.hidden);
  w.attention.out = b.linear(attention + "o_proj", c.hidden, q, false, b.dtype());
  w.attention.q_norm = b.small(attention + "q_norm.weight", {c.head_dim});
  w.attention.k_norm = b.small(attention + "k_norm.weight", {c.head_dim});
  w.feed_forward.gate_up =
      b.gated(MatrixPart::all(mlp + "gate_proj.weight", c.ffn, c.hidden),
              MatrixPart::all(mlp + "up_proj.weight", c.ffn, c.hidden), c.feed_forward_shape());
  w.feed_forward.down = b.linear(mlp + "down_proj", c.hidden, c.ffn, false, b.dtype());
  w.visit = b.end_block();
  w.input_norm = b.small(name + ".input_layernorm.weight", {c.hidden});
  w.post_attention_norm = b.small(name + ".post_attention_layernorm.weight", {c.hidden});
  return w;
}

/// Layers that are part of the layout but never run.
void pass_layer(const Config& c, WeightBuilder& b, const std::string& name) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  b.unneeded(name + ".self_attn.q_proj.weight", {q, c.hidden});
  b.unneeded(name + ".self_attn.k_proj.weight", {kv, c.hidden});
  b.unneeded(name + ".self_attn.v_proj.weight", {kv, c.hidden});
  b.unneeded(name + ".self_attn.o_proj.weight", {c.hidden, q});
  b.unneeded(name + ".self_attn.q_norm.weight", {c.head_dim});
  b.unneeded(name + ".self_attn.k_norm.weight", {c.head_dim});
  b.unneeded(name + ".mlp.gate_proj.weight", {c.ffn, c.hidden});
  b.unneeded(name + ".mlp.up_proj.weight", {c.ffn, c.hidden});
  b.unneeded(name + ".mlp.down_proj.weight", {c.hidden, c.ffn});
  b.unneeded(name + ".input_layernorm.weight", {c.hidden});
  b.unneeded(name + ".post_attention_layernorm.weight", {c.hidden});
}

}  // namespace

Weights build_weights(const Config& c, WeightBuilder& b) {
  Weights w;
  w.embedding = b.table("embed_tokens.weight", {c.vocabulary, c.hidden});
  for (int64_t i = 0; i < c.used_layers(); ++i) w.layers.push_back(build_layer(c, b, "layers." + std::to_string(i)));
  for (int64_t i = c.used_layers(); i < c.layers; ++i) pass_layer(c, b, "layers." + std::to_string(i));
  b.unneeded("norm.weight", {c.hidden});
  b.ignored("lm_head.weight");
  w.storage = b.finish();
  return w;
}

WeightTable weight_table(const Weights& w) {
  WeightTable table;
  for (const LayerWeights& layer : w.layers)
    add_places(table, {&layer.attention.qkv, &layer.attention.out, &layer.feed_forward.gate_up.gate_up,
                       &layer.feed_forward.down});
  return table;
}

}  // namespace nostos::qwen3
