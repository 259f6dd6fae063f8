// Names every tensor of a ZImageControlNetModel.
#include "models/zimage/control_weights.h"

namespace nostos::zimage {
namespace {

std::vector<ControlBlockWeights> build_control_blocks(const Config& c, WeightBuilder& b, const std::string& list,
                                                      int64_t count, bool adds) {
  std::vector<ControlBlockWeights> blocks;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = list + "." + std::to_string(i);
    ControlBlockWeights& w = blocks.emplace_back();
    const auto projections = [&] {
      if (!adds) return;
      if (i == 0) w.before = b.linear(name + ".before_proj", c.hidden, c.hidden, true, b.dtype());
      w.after = b.linear(name + ".after_proj", c.hidden, c.hidden, false, b.dtype());
      w.after_bias = b.small(name + ".after_proj.bias", {c.hidden});
    };
    w.block = build_block(c, b, name, {true, projections});
  }
  return blocks;
}

/// Names tensors of blocks that are of no use here.
void ignore_blocks(const std::string& list, int64_t count, WeightBuilder& b) {
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = list + "." + std::to_string(i);
    for (const char* tensor :
         {".attention.to_q.weight", ".attention.to_k.weight", ".attention.to_v.weight", ".attention.to_out.0.weight",
          ".attention.norm_q.weight", ".attention.norm_k.weight", ".feed_forward.w1.weight", ".feed_forward.w2.weight",
          ".feed_forward.w3.weight", ".attention_norm1.weight", ".attention_norm2.weight", ".ffn_norm1.weight",
          ".ffn_norm2.weight", ".adaLN_modulation.0.weight", ".adaLN_modulation.0.bias", ".before_proj.weight",
          ".before_proj.bias", ".after_proj.weight", ".after_proj.bias"})
      b.ignored(name + tensor);
  }
}

/// Names what diffusers' pipelines lend the network, and write with it: parts of the transformer.
void ignore_borrowed(const Config& c, WeightBuilder& b) {
  for (const char* list : {"noise_refiner", "context_refiner"}) ignore_blocks(list, c.refiner_layers, b);
  const std::string embedder = "all_x_embedder." + std::to_string(c.patch) + "-1";
  for (const std::string& name : {embedder, std::string("cap_embedder.0"), std::string("cap_embedder.1"),
                                  std::string("t_embedder.mlp.0"), std::string("t_embedder.mlp.2")})
    for (const char* tensor : {".weight", ".bias"}) b.ignored(name + tensor);
  for (const char* token : {"x_pad_token", "cap_pad_token"}) b.ignored(token);
}

}  // namespace

ControlWeights build_control_weights(const ControlConfig& config, WeightBuilder& b) {
  const Config& c = config.dims;
  ControlWeights w;
  w.embedder =
      b.linear("control_all_x_embedder." + std::to_string(c.patch) + "-1", c.hidden, c.patch_width(), true, DType::f32);
  w.refiner = build_control_blocks(c, b, "control_noise_refiner", config.refiner_blocks(), config.adds_to_refiner());
  // Files of Union 2.0 have these, untrained, and diffusers leaves them out.
  if (config.refiner == ControlRefiner::control_layers) ignore_blocks("control_noise_refiner", c.refiner_layers, b);
  ignore_borrowed(c, b);
  w.layers = build_control_blocks(c, b, "control_layers", c.layers, true);
  w.storage = b.finish();
  return w;
}

WeightTable weight_table(const ControlWeights& w) {
  WeightTable table;
  add_places(table, {&w.embedder});
  for (const std::vector<ControlBlockWeights>* blocks : {&w.refiner, &w.layers}) {
    for (const ControlBlockWeights& block : *blocks) {
      add_block_places(table, block.block);
      add_places(table, {&block.before, &block.after});
    }
  }
  return table;
}

}  // namespace nostos::zimage
