// Names every tensor of a Flux2Transformer2DModel.
#include "models/flux2/weights.h"

#include <string>

namespace nostos::flux2 {
namespace {

nn::FeedForwardWeights build_feed_forward(const Config& c, WeightBuilder& b, const std::string& name) {
  const int64_t d = c.hidden(), f = c.ffn();
  const Shape both{2 * f, d};
  return {b.gated({name + ".linear_in.weight", both, 0, f, 0, d}, {name + ".linear_in.weight", both, f, f, 0, d},
                  c.feed_forward_shape()),
          b.linear(name + ".linear_out", d, f, false, b.dtype())};
}

DoubleBlockWeights build_double(const Config& c, WeightBuilder& b, const std::string& name) {
  const int64_t d = c.hidden();
  const std::string attention = name + ".attn.";
  DoubleBlockWeights w;
  b.begin_block(BlockUse::each_step);
  nn::AttentionWeights& image = w.attention[kImage];
  image.qkv =
      b.stacked({attention + "to_q.weight", attention + "to_k.weight", attention + "to_v.weight"}, {d, d, d}, d);
  image.out = b.linear(attention + "to_out.0", d, d, false, b.dtype());
  nn::AttentionWeights& text = w.attention[kText];
  text.qkv =
      b.stacked({attention + "add_q_proj.weight", attention + "add_k_proj.weight", attention + "add_v_proj.weight"},
                {d, d, d}, d);
  text.out = b.linear(attention + "to_add_out", d, d, false, b.dtype());
  w.feed_forward[kImage] = build_feed_forward(c, b, name + ".ff");
  w.feed_forward[kText] = build_feed_forward(c, b, name + ".ff_context");
  w.visit = b.end_block();
  image.q_norm = b.small(attention + "norm_q.weight", {c.head_dim});
  image.k_norm = b.small(attention + "norm_k.weight", {c.head_dim});
  text.q_norm = b.small(attention + "norm_added_q.weight", {c.head_dim});
  text.k_norm = b.small(attention + "norm_added_k.weight", {c.head_dim});
  return w;
}

SingleBlockWeights build_single(const Config& c, WeightBuilder& b, const std::string& name) {
  const int64_t d = c.hidden(), f = c.ffn();
  const std::string attention = name + ".attn.", in = attention + "to_qkv_mlp_proj.weight",
                    out = attention + "to_out.weight";
  const Shape in_shape{3 * d + 2 * f, d}, out_shape{d, d + f};
  SingleBlockWeights w;
  b.begin_block(BlockUse::each_step);
  w.attention.qkv = b.part({in, in_shape, 0, 3 * d, 0, d});
  w.feed_forward.gate_up =
      b.gated({in, in_shape, 3 * d, f, 0, d}, {in, in_shape, 3 * d + f, f, 0, d}, c.feed_forward_shape());
  w.attention.out = b.summand({out, out_shape, 0, d, 0, d});
  w.feed_forward.down = b.summand({out, out_shape, 0, d, d, f});
  w.visit = b.end_block();
  w.attention.q_norm = b.small(attention + "norm_q.weight", {c.head_dim});
  w.attention.k_norm = b.small(attention + "norm_k.weight", {c.head_dim});
  return w;
}

}  // namespace

Weights build_weights(const Config& c, WeightBuilder& b) {
  const int64_t d = c.hidden();
  const auto edge = [&](const std::string& name, int64_t out, int64_t in) {
    return b.linear(name, out, in, false, DType::f32);
  };
  Weights w;
  w.x_embedder = edge("x_embedder", d, c.in_channels);
  w.context_embedder = edge("context_embedder", d, c.text_width);
  w.time_in = edge("time_guidance_embed.timestep_embedder.linear_1", d, c.time_features);
  w.time_out = edge("time_guidance_embed.timestep_embedder.linear_2", d, d);
  w.double_modulation[kImage] = edge("double_stream_modulation_img.linear", 6 * d, d);
  w.double_modulation[kText] = edge("double_stream_modulation_txt.linear", 6 * d, d);
  w.single_modulation = edge("single_stream_modulation.linear", 3 * d, d);
  for (int64_t i = 0; i < c.double_layers; ++i)
    w.double_blocks.push_back(build_double(c, b, "transformer_blocks." + std::to_string(i)));
  for (int64_t i = 0; i < c.single_layers; ++i)
    w.single_blocks.push_back(build_single(c, b, "single_transformer_blocks." + std::to_string(i)));
  w.final_modulation = edge("norm_out.linear", 2 * d, d);
  w.final_linear = edge("proj_out", c.in_channels, d);
  w.storage = b.finish();
  return w;
}

WeightTable weight_table(const Weights& w) {
  WeightTable table;
  add_places(table, {&w.x_embedder, &w.context_embedder, &w.time_in, &w.time_out, &w.double_modulation[kImage],
                     &w.double_modulation[kText], &w.single_modulation, &w.final_modulation, &w.final_linear});
  const auto add_layer = [&](const nn::AttentionWeights& attention, const nn::FeedForwardWeights& feed_forward) {
    add_places(table, {&attention.qkv, &attention.out, &feed_forward.gate_up.gate_up, &feed_forward.down});
  };
  for (const DoubleBlockWeights& block : w.double_blocks)
    for (const Stream stream : {kImage, kText}) add_layer(block.attention[stream], block.feed_forward[stream]);
  for (const SingleBlockWeights& block : w.single_blocks) add_layer(block.attention, block.feed_forward);
  return table;
}

}  // namespace nostos::flux2
