// Reads and checks transformer/config.json, and makes one from shapes.
#include "models/zimage/config.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "base/error.h"
#include "base/rounding.h"

namespace nostos::zimage {

int64_t Config::ffn() const { return static_cast<int64_t>(static_cast<double>(hidden) / 3 * 8); }

int64_t Config::modulation_width() const { return std::min(hidden, kMaxModulationWidth); }

nn::AttentionShape Config::attention_shape() const {
  constexpr float kHeadNormEps = 1e-5f;  // fixed in the model code, whatever norm_eps says
  return {heads, heads, head_dim(), kHeadNormEps, ops::RotaryPairs::interleaved, false, rounds_scores};
}

GatedShape Config::feed_forward_shape() const { return {hidden, ffn(), false}; }

Config load_config(const JsonConfig& json) {
  constexpr std::array<std::string_view, 1> kClasses{"ZImageTransformer2DModel"};
  constexpr int64_t kMax = int64_t{1} << 20;
  json.check_class(kClasses);
  json.require_unquantised();

  Config config;
  const std::vector<int64_t> patches = json.integers_or("all_patch_size", {2}, 1, 64);
  const std::vector<int64_t> frame_patches = json.integers_or("all_f_patch_size", {1}, 1, 64);
  if (patches.size() != 1)
    json.refuse("all_patch_size", fmt::format("lists {} patch sizes, nostos draws with one", patches.size()));
  if (frame_patches != std::vector<int64_t>{1})
    json.refuse("all_f_patch_size", "is not [1]: nostos draws single frames");
  config.patch = patches[0];
  config.in_channels = json.integer_or("in_channels", 16, 1, 4096);
  config.hidden = json.integer_or("dim", 3840, 3, kMax);
  config.layers = json.integer_or("n_layers", 30, 1, 1000);
  config.refiner_layers = json.integer_or("n_refiner_layers", 2, 0, 1000);
  config.heads = json.integer_or("n_heads", 30, 1, 4096);
  config.norm_eps = static_cast<float>(json.number_or("norm_eps", 1e-5, 0, 1));
  config.qk_norm = json.boolean_or("qk_norm", true);
  config.caption_width = json.integer_or("cap_feat_dim", 2560, 1, kMax);
  config.rope_theta = json.number_or("rope_theta", 256, 1, 1e12);
  config.t_scale = json.number_or("t_scale", 1000, 1e-6, 1e9);
  config.axes_dims = json.integers_or("axes_dims", {32, 48, 48}, 2, 4096);
  config.axes_lens = json.integers_or("axes_lens", {1024, 512, 512}, 1, kMax);

  if (json.has("siglip_feat_dim")) json.refuse("siglip_feat_dim", "is set: nostos draws from text alone");
  if (config.hidden % config.heads != 0) {
    json.refuse("n_heads", fmt::format("is {}, which does not divide dim {}", config.heads, config.hidden));
  }
  if (config.axes_dims.size() != 3 || config.axes_lens.size() != 3)
    json.refuse("axes_dims", "and 'axes_lens' must have three entries");
  if (std::any_of(config.axes_dims.begin(), config.axes_dims.end(), [](int64_t d) { return d % 2 != 0; })) {
    json.refuse("axes_dims", "must be even");
  }
  if (std::accumulate(config.axes_dims.begin(), config.axes_dims.end(), int64_t{0}) != config.head_dim()) {
    json.refuse("axes_dims", fmt::format("must add up to dim / n_heads = {}", config.head_dim()));
  }
  return config;
}

JsonConfig guess_config(const TensorShapes& shapes) {
  constexpr int64_t kPatch = 2, kHeadDim = 128;
  const std::string embedder = fmt::format("all_x_embedder.{}-1.weight", kPatch);
  const int64_t hidden = shapes.extent(embedder, 0);
  const int64_t head_dim = shapes.extent("layers.0.attention.norm_q.weight", 0);
  if (head_dim != kHeadDim) shapes.refuse(fmt::format("its heads are {} wide, not {}", head_dim, kHeadDim));
  const int64_t in_channels = shapes.quotient("channels", shapes.extent(embedder, 1), kPatch * kPatch);
  const std::string siglip_norm = "siglip_embedder.0.weight";
  return JsonConfig::parse(
      fmt::format(R"({{"_class_name": "ZImageTransformer2DModel", "all_patch_size": [{}], "all_f_patch_size": [1],
                       "in_channels": {}, "dim": {}, "n_layers": {}, "n_refiner_layers": {}, "n_heads": {},
                       "norm_eps": 1e-5, "qk_norm": true, "cap_feat_dim": {}, "rope_theta": 256, "t_scale": 1000,
                       "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "siglip_feat_dim": {}}})",
                  kPatch, in_channels, hidden, shapes.count("layers.", ".attention_norm1.weight"),
                  shapes.count("noise_refiner.", ".attention_norm1.weight"), shapes.quotient("heads", hidden, head_dim),
                  shapes.extent("cap_embedder.1.weight", 1),
                  shapes.has(siglip_norm) ? std::to_string(shapes.extent(siglip_norm, 0)) : "null"),
      shapes.config_name());
}

int64_t padded_tokens(int64_t tokens) { return round_up(tokens, kTokenMultiple); }

}  // namespace nostos::zimage
