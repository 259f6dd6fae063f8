// Owns the VAE's decoder and encoder passes, channels last.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "models/autoencoder_kl/config.h"
#include "models/autoencoder_kl/weights.h"
#include "nn/probe.h"
#include "tensor/tensor.h"

namespace nostos::autoencoder_kl {

/// Called with the name and value [height, width, channels] of intermediate results, in order; for tests.
using Probe = std::function<void(std::string_view name, ConstView image)>;

/// Memory of one decoding or encoding; each buffer is as large as the largest level needs.
struct Scratch {
  View x;                          ///< f32: the residual stream
  View h;                          ///< f32: the inner activations of a residual block
  View normed;                     ///< of the weights' dtype: inputs of convolutions
  View group_sums;                 ///< f64 [largest height, groups, 2]
  nn::AttentionScratch attention;  ///< of the middle block
};

/// A loaded VAE.
class Autoencoder {
 public:
  Autoencoder(const Config& config, Weights weights, DType dtype)
      : config_(config), weights_(std::move(weights)), dtype_(dtype) {}

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }

  /// Takes the memory of decode() for a latent of this size. Run it on a measuring arena first.
  Scratch take_decode_scratch(Arena& arena, int64_t latent_height, int64_t latent_width) const;
  Scratch take_encode_scratch(Arena& arena, int64_t height, int64_t width) const;

  /// image = decoder(latents / scaling_factor + shift_factor), not clamped.
  /// \param latents f32 [latent_channels, height, width]. \param image f32 [height * scale, width * scale, 3].
  /// \throws Error cancelled between blocks
  void decode(Context& ctx, ConstView latents, const Scratch& scratch, View image, const nn::Probe& probe = {}) const;

  /// moments = encoder(image): mean, then log variance, not yet scaled. Needs weights loaded with their encoder.
  /// \param image f32 [height, width, 3] in [-1, 1], sides multiples of scale(). \param moments f32 [height / scale,
  /// width / scale, 2 * latent_channels].
  void encode(Context& ctx, ConstView image, const Scratch& scratch, View moments, const nn::Probe& probe = {}) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
};

}  // namespace nostos::autoencoder_kl
