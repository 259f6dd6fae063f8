// Owns the Qwen3 text encoder's forward pass.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "models/qwen3/config.h"
#include "models/qwen3/weights.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "nn/probe.h"
#include "nn/rope.h"
#include "tensor/tensor.h"

namespace nostos::qwen3 {

/// Called with the name and rows of intermediate results, in order; for tests.
using Probe = std::function<void(std::string_view name, ConstView rows)>;

/// Memory of an encoding of several prompts.
struct Scratch {
  View normed;  ///< [tokens of all, hidden] of the weights' dtype
  nn::AttentionScratch attention;
  nn::FeedForwardScratch feed_forward;
  nn::RopeTable rope;  ///< as long as the longest
  View ids;            ///< i32 [tokens of all]

  /// \param lengths the tokens of each prompt
  static Scratch take(Arena& arena, const Config& config, std::span<const int64_t> lengths, DType dtype);
};

/// A loaded text encoder.
class Encoder {
 public:
  Encoder(const Config& config, Weights weights, DType dtype)
      : config_(config), weights_(std::move(weights)), dtype_(dtype) {}

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }

  /// The last but one hidden state of the real tokens, before the final norm: the encoder is causal, so tokens that a
  /// reference would pad with change nothing. Several prompts go through at once, for which the weights are read once;
  /// a prompt's features depend on it alone, bit for bit. Enqueues on ctx; neither allocates on its device nor waits.
  /// \param ids token ids of each prompt, at least one. \param scratch of as many. \param features f32 [ids of all,
  /// hidden]: one prompt after the other. \throws Error model for an id outside the vocabulary, cancelled
  void encode(Context& ctx, std::span<const std::span<const int32_t>> ids, const Scratch& scratch, View features,
              const nn::Probe& probe = {}) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
};

}  // namespace nostos::qwen3
