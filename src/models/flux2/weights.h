// Owns the weights of a FLUX.2 transformer and the walk that names every tensor.
#pragma once

#include <array>
#include <vector>

#include "models/flux2/config.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "nn/attention.h"
#include "nn/feed_forward.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos::flux2 {

/// Which weights a row takes in a double block.
enum Stream : size_t { kImage, kText };
inline constexpr size_t kStreams = 2;

/// A block whose text and image rows have weights of their own, and attend together.
struct DoubleBlockWeights {
  BlockVisit visit;  ///< of the matrices
  std::array<nn::AttentionWeights, kStreams> attention;
  std::array<nn::FeedForwardWeights, kStreams> feed_forward;
};

/// A block whose rows share their weights, and whose attention and feed-forward layer read the same norm. The
/// checkpoint keeps their first products in one matrix, and their last products in another.
struct SingleBlockWeights {
  BlockVisit visit;  ///< of the matrices
  nn::AttentionWeights attention;
  nn::FeedForwardWeights feed_forward;
};

struct Weights {
  // The layers at the edges are small and sensitive: they stay float32.
  Linear x_embedder;                               ///< [hidden, in_channels]
  Linear context_embedder;                         ///< [hidden, text width]
  Linear time_in;                                  ///< [hidden, time features]
  Linear time_out;                                 ///< [hidden, hidden]
  std::array<Linear, kStreams> double_modulation;  ///< [6 * hidden, hidden], of all double blocks
  Linear single_modulation;                        ///< [3 * hidden, hidden], of all single blocks
  Linear final_modulation;                         ///< [2 * hidden, hidden]
  Linear final_linear;                             ///< [in_channels, hidden]
  std::vector<DoubleBlockWeights> double_blocks;
  std::vector<SingleBlockWeights> single_blocks;
  WeightStorage storage;
};

/// Walks every tensor of the diffusers layout. \throws Error model, out_of_memory
Weights build_weights(const Config& config, WeightBuilder& builder);

/// \return where the checkpoint's matrices are in `weights`, which stay where they are.
WeightTable weight_table(const Weights& weights);

}  // namespace nostos::flux2
