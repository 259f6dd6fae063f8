// Owns the weights of a Z-Image transformer and the walk that names every tensor.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "models/zimage/config.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::zimage {

struct BlockWeights {
  BlockVisit visit;  ///< of the matrices but modulation's
  nn::AttentionWeights attention;
  nn::FeedForwardWeights feed_forward;
  ConstView attention_norm1, attention_norm2, ffn_norm1, ffn_norm2;  ///< f32 [hidden]
  Linear modulation;  ///< [4 * hidden, modulation width]; empty in context refiners
};

/// What sets one block apart from another.
struct BlockKind {
  bool modulated = true;
  std::function<void()> beside{};  ///< walks matrices that belong to the block's visit beside its own
};

/// Walks the tensors of a block. \param name before their names, e.g. "layers.0"
BlockWeights build_block(const Config& config, WeightBuilder& builder, const std::string& name, const BlockKind& kind);

/// Adds where a block's matrices are.
void add_block_places(WeightTable& table, const BlockWeights& block);

struct Weights {
  // The layers at the edges are small and sensitive: they stay float32.
  Linear x_embedder;        ///< [hidden, patch width]
  Linear caption_embedder;  ///< [hidden, caption width]
  ConstView caption_norm;   ///< f32 [caption width]
  ConstView x_pad_token;    ///< f32 [1, hidden]
  ConstView caption_pad_token;
  Linear time_in;   ///< [kTimeHidden, kTimeFeatures]
  Linear time_out;  ///< [modulation width, kTimeHidden]
  std::vector<BlockWeights> noise_refiner, context_refiner, layers;
  Linear final_modulation;  ///< [hidden, modulation width]
  Linear final_linear;      ///< [patch width, hidden]
  WeightStorage storage;
};

/// Walks every tensor of the diffusers layout. \throws Error model, out_of_memory
Weights build_weights(const Config& config, WeightBuilder& builder);

/// \return where the checkpoint's matrices are in `weights`, which stay where they are.
WeightTable weight_table(const Weights& weights);

}  // namespace nostos::zimage
