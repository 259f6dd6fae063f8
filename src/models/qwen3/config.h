// Owns the shape of a Qwen3 text encoder.
#pragma once

#include <cstdint>
#include <filesystem>

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

  /// Layers whose output is used: features are the last but one hidden state, so the last layer never runs.
  int64_t used_layers() const { return layers - 1; }
  nn::AttentionShape attention_shape() const;
  GatedShape feed_forward_shape() const;
};

/// \throws Error model naming file and field.
Config load_config(const std::filesystem::path& file);

}  // namespace nostos::qwen3
