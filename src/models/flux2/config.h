// Owns the shape of a FLUX.2 transformer.
#pragma once

#include <cstdint>
#include <vector>

#include "io/json_config.h"
#include "models/tensor_shapes.h"
#include "nn/attention.h"

namespace nostos::flux2 {

/// transformer/config.json of a Flux2Transformer2DModel.
struct Config {
  int64_t in_channels = 128;  ///< of a token of packed latents
  int64_t heads = 24;
  int64_t head_dim = 128;
  int64_t double_layers = 5;  ///< blocks whose text and image rows have weights of their own
  int64_t single_layers = 20;
  int64_t text_width = 7680;  ///< of the text encoder's features
  int64_t time_features = 256;
  double mlp_ratio = 3;
  float norm_eps = 1e-6f;
  double rope_theta = 2000;
  std::vector<int64_t> axes_dims{32, 32, 32, 32};
  bool rounds_scores = false;  ///< of attention; stands in no config: see nn::AttentionShape

  int64_t hidden() const { return heads * head_dim; }
  int64_t ffn() const { return static_cast<int64_t>(static_cast<double>(hidden()) * mlp_ratio); }
  nn::AttentionShape attention_shape() const;
  GatedShape feed_forward_shape() const { return {hidden(), ffn(), false}; }

  friend bool operator==(const Config&, const Config&) = default;
};

/// \throws Error model naming file and field: unknown class, wrong type, values that contradict each other or that
/// nostos cannot draw with.
Config load_config(const JsonConfig& json);

/// \return the config of a model whose file comes without one: of the published dimensions that `shapes` do not say.
/// \throws Error model if the published ones cannot be meant
JsonConfig guess_config(const TensorShapes& shapes);

}  // namespace nostos::flux2
