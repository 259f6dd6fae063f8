// Owns the shape of a Qwen3 text encoder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iterator>
#include <vector>

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
};

/// \return the config, whose features are the last but one hidden state. \throws Error model naming file and field.
Config load_config(const std::filesystem::path& file);

}  // namespace nostos::qwen3
