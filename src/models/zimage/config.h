// Owns the shape of a Z-Image transformer.
#pragma once

#include <cstdint>
#include <vector>

#include "io/json_config.h"
#include "models/tensor_shapes.h"
#include "nn/attention.h"

namespace nostos::zimage {

inline constexpr int64_t kTimeFeatures = 256;  ///< sinusoidal features of a time; stands in no config
inline constexpr int64_t kTimeHidden = 1024;   ///< width in the middle of the time embedder; stands in no config
inline constexpr int64_t kMaxModulationWidth = 256;
inline constexpr int64_t kTokenMultiple = 32;  ///< image and caption rows are padded to multiples of this

/// transformer/config.json of a ZImageTransformer2DModel.
struct Config {
  int64_t patch = 2;
  int64_t in_channels = 16;
  int64_t hidden = 3840;
  int64_t layers = 30;
  int64_t refiner_layers = 2;
  int64_t heads = 30;
  float norm_eps = 1e-5f;
  bool qk_norm = true;
  int64_t caption_width = 2560;
  double rope_theta = 256;
  double t_scale = 1000;
  std::vector<int64_t> axes_dims{32, 48, 48};
  std::vector<int64_t> axes_lens{1536, 512, 512};
  bool rounds_scores = false;  ///< of attention; stands in no config: see nn::AttentionShape

  int64_t head_dim() const { return hidden / heads; }
  int64_t ffn() const;               ///< int(hidden / 3 * 8)
  int64_t modulation_width() const;  ///< width of the adaLN input: min(hidden, 256)
  int64_t patch_width() const { return patch * patch * in_channels; }
  nn::AttentionShape attention_shape() const;
  GatedShape feed_forward_shape() const;

  friend bool operator==(const Config&, const Config&) = default;
};

/// \throws Error model naming file and field: unknown class, wrong type, values that contradict each other or that
/// nostos cannot draw with.
Config load_config(const JsonConfig& json);

/// \return the config of a model whose file comes without one: of the published dimensions that `shapes` do not say.
/// \throws Error model if the published ones cannot be meant
JsonConfig guess_config(const TensorShapes& shapes);

/// \return `tokens` rounded up to kTokenMultiple.
int64_t padded_tokens(int64_t tokens);

}  // namespace nostos::zimage
