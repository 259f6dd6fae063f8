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

/// A prompt's rows: its tokens, then pads.
struct PromptRows {
  int64_t tokens = 0;
  int64_t pads = 0;

  int64_t all() const { return tokens + pads; }
};

/// Memory of an encoding of several prompts.
struct Scratch {
  View x;       ///< f32 [rows of all, hidden]: the residual stream; null where it is the features
  View normed;  ///< [rows of all, hidden] of the weights' dtype
  nn::AttentionScratch attention;
  nn::FeedForwardScratch feed_forward;
  View ids;  ///< i32 [rows of all]

  static Scratch take(Arena& arena, const Config& config, std::span<const PromptRows> prompts, DType dtype);
};

/// A loaded text encoder.
class Encoder {
 public:
  /// \param max_tokens of a prompt, pads included
  Encoder(Context& ctx, const Config& config, Weights weights, int64_t max_tokens);

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  /// What keeps the weights, whose vectors adapters write anew.
  WeightStorage& storage() { return weights_.storage; }

  /// Puts the token ids of prompts, one after the other, into scratch.ids.
  /// \param ids of each prompt's rows, pads included, at least one. \throws Error model for an id outside the
  /// vocabulary
  void take_ids(Context& ctx, std::span<const std::span<const int32_t>> ids, const Scratch& scratch) const;

  /// The outputs of the feature layers, before the final norm. The encoder is causal, so that pads change no token's
  /// features. A pad attends to the prompt's tokens, and neither to itself nor to other pads, as transformers' masks
  /// say. Several prompts go through at once, for which the weights are read once; a prompt's features depend on it
  /// alone, bit for bit. Enqueues on ctx; neither allocates on its device nor waits, nor reads host memory, so that it
  /// can be recorded.
  /// \param prompts each of at most max_tokens rows. \param scratch with their ids. \param features f32 [rows of all,
  /// feature_width()]: one prompt after the other. \throws Error cancelled
  void encode(Context& ctx, std::span<const PromptRows> prompts, const Scratch& scratch, View features,
              const nn::Probe& probe = {}) const;

 private:
  Config config_;
  Weights weights_;
  nn::RopeStorage rope_;  // of the longest prompt
};

}  // namespace nostos::qwen3
