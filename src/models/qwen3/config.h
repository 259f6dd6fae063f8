// Owns the shape of a Qwen3 text encoder.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "io/json_config.h"
#include "models/tensor_shapes.h"
#include "nn/attention.h"

namespace nostos::qwen3 {

/// text_encoder/config.json of a Qwen3Model or Qwen3ForCausalLM.
struct Config {
  int64_t vocabulary = 151936;
  int64_t hidden = 2560;
  int64_t ffn = 9728;
  int64_t layers = 36;
  int64_t heads = 32;
  int64_t kv_heads = 8;
  int64_t head_dim = 128;
  float norm_eps = 1e-6f;
  double rope_theta = 1e6;
  /// Layers, counted from 1, whose outputs side by side are the features. It stands in no config: a family says it.
  std::vector<int64_t> feature_layers{35};
  bool pads = false;  ///< whether prompts are padded to hundreds of rows; a family says that, too

  /// \return how many layers run: none beyond the last whose output is a feature.
  int64_t used_layers() const { return feature_layers.back(); }
  int64_t feature_width() const { return std::ssize(feature_layers) * hidden; }
  nn::AttentionShape attention_shape() const;
  GatedShape feed_forward_shape() const;

  friend bool operator==(const Config&, const Config&) = default;
};

/// \return the config, whose features are the last but one hidden state. \throws Error model naming file and field.
Config load_config(const JsonConfig& json);

/// What no shape says. Files of some formats have it beside the tensors, e.g. GGUF's `qwen3.rope.freq_base` and
/// `qwen3.attention.layer_norm_rms_epsilon`.
struct Constants {
  double rope_theta = 1e6;
  double norm_eps = 1e-6;
};

/// \return the config of a model whose file comes without one. \throws Error model if `shapes` do not fit one another
JsonConfig guess_config(const TensorShapes& shapes, const Constants& constants = {});

}  // namespace nostos::qwen3
