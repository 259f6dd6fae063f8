// Reads and checks transformer/config.json, and makes one from shapes.
#include "models/flux2/config.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "base/error.h"

namespace nostos::flux2 {

nn::AttentionShape Config::attention_shape() const {
  return {heads, heads, head_dim, norm_eps, ops::RotaryPairs::interleaved, false, rounds_scores};
}

// What a config leaves out has the class's own defaults, which are those of FLUX.2-dev.
Config load_config(const JsonConfig& json) {
  constexpr std::array<std::string_view, 1> kClasses{"Flux2Transformer2DModel"};
  constexpr int64_t kMax = int64_t{1} << 20;
  json.check_class(kClasses);
  json.require_unquantised();

  Config config;
  config.in_channels = json.integer_or("in_channels", 128, 1, 4096);
  config.heads = json.integer_or("num_attention_heads", 48, 1, 4096);
  config.head_dim = json.integer_or("attention_head_dim", 128, 2, 4096);
  config.double_layers = json.integer_or("num_layers", 8, 1, 1000);
  config.single_layers = json.integer_or("num_single_layers", 48, 1, 1000);
  config.text_width = json.integer_or("joint_attention_dim", 15360, 1, kMax);
  config.time_features = json.integer_or("timestep_guidance_channels", 256, 2, 65536);
  config.mlp_ratio = json.number_or("mlp_ratio", 3, 1e-3, 1e3);
  config.norm_eps = static_cast<float>(json.number_or("eps", 1e-6, 0, 1));
  config.rope_theta = json.number_or("rope_theta", 2000, 1, 1e12);
  config.axes_dims = json.integers_or("axes_dims_rope", {32, 32, 32, 32}, 2, 4096);

  if (json.integer_or("patch_size", 1, 1, 64) != 1)
    json.refuse("patch_size", "is not 1: nostos draws FLUX.2 token by token");
  if (!json.is_null("out_channels") &&
      json.integer_or("out_channels", config.in_channels, 1, 65536) != config.in_channels)
    json.refuse("out_channels", "is not null or in_channels");
  if (json.boolean_or("guidance_embeds", true))
    json.refuse("guidance_embeds",
                "is true, as it is by default: nostos draws with FLUX.2-klein, which takes no guidance as an input");
  if (config.ffn() < 1) json.refuse("mlp_ratio", "gives the feed-forward layers no width");
  if (config.time_features % 2 != 0) json.refuse("timestep_guidance_channels", "must be even");
  if (config.axes_dims.size() != 4) json.refuse("axes_dims_rope", "must have four entries");
  if (std::ranges::any_of(config.axes_dims, [](int64_t dim) { return dim % 2 != 0; }))
    json.refuse("axes_dims_rope", "must be even");
  if (std::accumulate(config.axes_dims.begin(), config.axes_dims.end(), int64_t{0}) != config.head_dim)
    json.refuse("axes_dims_rope", fmt::format("must add up to attention_head_dim = {}", config.head_dim));
  return config;
}

JsonConfig guess_config(const TensorShapes& shapes) {
  constexpr int64_t kHeadDim = 128;
  const std::string time = "time_guidance_embed.";
  const int64_t hidden = shapes.extent("x_embedder.weight", 0);
  const int64_t head_dim = shapes.extent("transformer_blocks.0.attn.norm_q.weight", 0);
  if (head_dim != kHeadDim) shapes.refuse(fmt::format("its heads are {} wide, not {}", head_dim, kHeadDim));
  const int64_t heads = shapes.quotient("heads", hidden, head_dim);
  const int64_t ffn = shapes.extent("transformer_blocks.0.ff.linear_out.weight", 1);
  return JsonConfig::parse(
      fmt::format(R"({{"_class_name": "Flux2Transformer2DModel", "patch_size": 1, "in_channels": {},
                       "out_channels": {}, "num_attention_heads": {}, "attention_head_dim": {}, "num_layers": {},
                       "num_single_layers": {}, "joint_attention_dim": {}, "timestep_guidance_channels": {},
                       "mlp_ratio": {}, "eps": 1e-6, "rope_theta": 2000, "axes_dims_rope": [32, 32, 32, 32],
                       "guidance_embeds": {}}})",
                  shapes.extent("x_embedder.weight", 1), shapes.extent("proj_out.weight", 0), heads, head_dim,
                  shapes.count("transformer_blocks.", ".attn.norm_q.weight"),
                  shapes.count("single_transformer_blocks.", ".attn.norm_q.weight"),
                  shapes.extent("context_embedder.weight", 1),
                  shapes.extent(time + "timestep_embedder.linear_1.weight", 1),
                  shapes.quotient("feed-forward channels per channel", ffn, hidden),
                  shapes.has(time + "guidance_embedder.linear_1.weight")),
      shapes.config_name());
}

}  // namespace nostos::flux2
