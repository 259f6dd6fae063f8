// Names every tensor of a ZImageTransformer2DModel.
#include "models/zimage/weights.h"

namespace nostos::zimage {

BlockWeights build_block(const Config& c, WeightBuilder& b, const std::string& name, const BlockKind& kind) {
  BlockWeights w;
  const std::string attention = name + ".attention.", ffn = name + ".feed_forward.";
  b.begin_block(kind.modulated ? BlockUse::each_step : BlockUse::once_a_prompt);
  w.attention.qkv = b.stacked({attention + "to_q.weight", attention + "to_k.weight", attention + "to_v.weight"},
                              {c.hidden, c.hidden, c.hidden}, c.hidden);
  w.attention.out = b.linear(attention + "to_out.0", c.hidden, c.hidden, false, b.dtype());
  if (c.qk_norm) {
    w.attention.q_norm = b.small(attention + "norm_q.weight", {c.head_dim()});
    w.attention.k_norm = b.small(attention + "norm_k.weight", {c.head_dim()});
  }
  w.feed_forward.gate_up = b.gated(MatrixPart::all(ffn + "w1.weight", c.ffn(), c.hidden),
                                   MatrixPart::all(ffn + "w3.weight", c.ffn(), c.hidden), c.feed_forward_shape());
  w.feed_forward.down = b.linear(ffn + "w2", c.hidden, c.ffn(), false, b.dtype());
  if (kind.beside) kind.beside();
  w.visit = b.end_block();
  w.attention_norm1 = b.small(name + ".attention_norm1.weight", {c.hidden});
  w.attention_norm2 = b.small(name + ".attention_norm2.weight", {c.hidden});
  w.ffn_norm1 = b.small(name + ".ffn_norm1.weight", {c.hidden});
  w.ffn_norm2 = b.small(name + ".ffn_norm2.weight", {c.hidden});
  if (kind.modulated)
    w.modulation = b.linear(name + ".adaLN_modulation.0", 4 * c.hidden, c.modulation_width(), true, b.dtype());
  return w;
}

namespace {

std::vector<BlockWeights> build_blocks(const Config& c, WeightBuilder& b, const std::string& name, int64_t count,
                                       bool modulated) {
  std::vector<BlockWeights> blocks;
  for (int64_t i = 0; i < count; ++i)
    blocks.push_back(build_block(c, b, name + "." + std::to_string(i), {modulated, {}}));
  return blocks;
}

}  // namespace

Weights build_weights(const Config& c, WeightBuilder& b) {
  const std::string patch = "." + std::to_string(c.patch) + "-1";
  const std::string final_layer = "all_final_layer" + patch;
  Weights w;
  w.x_embedder = b.linear("all_x_embedder" + patch, c.hidden, c.patch_width(), true, DType::f32);
  w.caption_norm = b.small("cap_embedder.0.weight", {c.caption_width});
  w.caption_embedder = b.linear("cap_embedder.1", c.hidden, c.caption_width, true, DType::f32);
  w.x_pad_token = b.small("x_pad_token", {1, c.hidden});
  w.caption_pad_token = b.small("cap_pad_token", {1, c.hidden});
  w.time_in = b.linear("t_embedder.mlp.0", kTimeHidden, kTimeFeatures, true, DType::f32);
  w.time_out = b.linear("t_embedder.mlp.2", c.modulation_width(), kTimeHidden, true, DType::f32);
  w.noise_refiner = build_blocks(c, b, "noise_refiner", c.refiner_layers, true);
  w.context_refiner = build_blocks(c, b, "context_refiner", c.refiner_layers, false);
  w.layers = build_blocks(c, b, "layers", c.layers, true);
  w.final_modulation = b.linear(final_layer + ".adaLN_modulation.1", c.hidden, c.modulation_width(), true, b.dtype());
  w.final_linear = b.linear(final_layer + ".linear", c.patch_width(), c.hidden, true, DType::f32);
  w.storage = b.finish();
  return w;
}

void add_block_places(WeightTable& table, const BlockWeights& block) {
  add_places(table, {&block.attention.qkv, &block.attention.out, &block.feed_forward.gate_up.gate_up,
                     &block.feed_forward.down, &block.modulation});
}

WeightTable weight_table(const Weights& w) {
  WeightTable table;
  add_places(table,
             {&w.x_embedder, &w.caption_embedder, &w.time_in, &w.time_out, &w.final_modulation, &w.final_linear});
  for (const std::vector<BlockWeights>* blocks : {&w.noise_refiner, &w.context_refiner, &w.layers})
    for (const BlockWeights& block : *blocks) add_block_places(table, block);
  return table;
}

}  // namespace nostos::zimage
