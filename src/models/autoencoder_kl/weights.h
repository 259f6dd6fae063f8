// Owns the weights of a VAE and the walk that names every tensor.
#pragma once

#include <optional>
#include <vector>

#include "models/autoencoder_kl/config.h"
#include "models/weight_builder.h"
#include "models/weight_table.h"
#include "nn/attention.h"
#include "ops/conv.h"

namespace nostos::autoencoder_kl {

struct GroupNormWeights {
  ConstView weight, bias;  ///< f32 [channels]
};

struct ResnetWeights {
  GroupNormWeights norm1, norm2;
  Conv2d conv1, conv2;
  std::optional<Conv2d> shortcut;  ///< 1x1, where the number of channels changes
};

struct MidWeights {
  ResnetWeights first, second;
  GroupNormWeights attention_norm;
  nn::AttentionWeights attention;  ///< empty without mid attention
};

/// One resolution: residual blocks, then a convolution that changes the resolution (absent on the last level).
struct LevelWeights {
  std::vector<ResnetWeights> resnets;
  std::optional<Conv2d> resample;
};

/// Encoder or decoder: the same parts in another order.
struct SideWeights {
  Conv2d conv_in;
  MidWeights mid;
  std::vector<LevelWeights> levels;  ///< in the order they run
  GroupNormWeights norm_out;
  Conv2d conv_out;
  std::optional<Conv2d> quant;  ///< 1x1: after the encoder, before the decoder
};

struct Weights {
  SideWeights decoder, encoder;
  ConstView latent_mean, latent_var;  ///< f32 [packed channels], or null where latents are not packed
  WeightStorage storage;
};

/// Walks every tensor of the diffusers layout. \throws Error model, out_of_memory
Weights build_weights(const Config& config, WeightBuilder& builder);

/// \return where the checkpoint's matrices are in `weights`, which stay where they are.
WeightTable weight_table(const Weights& weights);

}  // namespace nostos::autoencoder_kl
