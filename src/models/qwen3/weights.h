// Owns the weights of a Qwen3 text encoder and the walk that names every tensor.
#pragma once

#include <vector>

#include "models/qwen3/config.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"

namespace nostos::qwen3 {

struct LayerWeights {
  BlockVisit visit;  ///< of the matrices
  nn::AttentionWeights attention;
  nn::FeedForwardWeights feed_forward;
  ConstView input_norm, post_attention_norm;  ///< f32 [hidden]
};

struct Weights {
  StoredMatrix embedding;            ///< [vocabulary, hidden], as it is stored
  std::vector<LayerWeights> layers;  ///< the used ones
  WeightStorage storage;
};

/// Walks every tensor of the transformers layout of Qwen3Model (without a "model." prefix). \throws Error model,
/// out_of_memory
Weights build_weights(const Config& config, WeightBuilder& builder);

/// \return where the checkpoint's matrices are in `weights`, which stay where they are.
WeightTable weight_table(const Weights& weights);

}  // namespace nostos::qwen3
