// Owns the VAE's decoder and encoder passes, channels last.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "models/autoencoder_kl/config.h"
#include "models/autoencoder_kl/weights.h"
#include "nn/probe.h"
#include "nn/row_shards.h"
#include "tensor/tensor.h"

namespace nostos::autoencoder_kl {

/// Memory of the middle block's attention, of one head as wide as the channels: this rank's queries, everyone's keys.
struct MidAttentionScratch {
  View qkv;    ///< f32 [own tokens, 3 * channels]
  View q;      ///< [own tokens, channels]
  View k;      ///< [tokens, channels]
  View v;      ///< [tokens, channels]
  View mixed;  ///< [own tokens, channels]
};

/// Inputs of convolutions above this size are made in stripes of rows, one after the other in the same memory, where a
/// rank has the whole picture: ranks that share one need less as it is.
inline constexpr int64_t kStripeBytes = int64_t{512} << 20;
/// The same where memory is scarce.
inline constexpr int64_t kSmallStripeBytes = int64_t{64} << 20;

/// Memory of one decoding or encoding on one rank; each buffer is as large as the largest level needs.
struct Scratch {
  int64_t stripe_bytes = 0;  ///< see kStripeBytes
  View x;                    ///< ops::product_dtype(): the residual stream
  View h;                    ///< ops::product_dtype(): the inner activations of a residual block
  View normed;      ///< of the weights' dtype: inputs of convolutions, whole with the neighbours' rows, or a stripe
  View group_sums;  ///< f64 [latent height, groups, 2]
  MidAttentionScratch attention;  ///< in the place of h, which is not in use then
};

/// A loaded VAE.
class Autoencoder {
 public:
  Autoencoder(const Config& config, Weights weights, DType dtype)
      : config_(config), weights_(std::move(weights)), dtype_(dtype) {}

  const Config& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  /// What keeps the weights, whose vectors adapters write anew.
  WeightStorage& storage() { return weights_.storage; }

  /// Takes the memory of decode() for this rank's rows of a latent of this size. Run it on a measuring arena first. The
  /// picture does not depend on `stripe_bytes`.
  Scratch take_decode_scratch(Arena& arena, const nn::RowShards& shards, int64_t latent_height, int64_t latent_width,
                              int64_t stripe_bytes = kStripeBytes) const;
  /// The same of encode().
  Scratch take_encode_scratch(Arena& arena, const nn::RowShards& shards, int64_t latent_width,
                              int64_t stripe_bytes = kStripeBytes) const;

  /// image = this rank's rows of decoder(latents / scaling_factor + shift_factor), or of packed latents with their
  /// normalisation undone, not clamped: the same bits on any number of ranks. Every rank calls it, those without rows
  /// too.
  /// \param shards of the latent's rows, unpacked. \param latents f32 [latent_channels, height, width], or packed
  /// [packed_channels, height / patch, width / patch], whole on every rank.
  /// \param image f32 [shards.local(scale()).count, width * scale, 3]. \param probe sees this rank's rows.
  /// \throws Error cancelled between blocks, peer_failed
  void decode(Context& ctx, const nn::RowShards& shards, ConstView latents, const Scratch& scratch, View image,
              const nn::Probe& probe = {}) const;

  /// Begins to compile, on threads of its own, what decode() of the same arguments runs, so that it is there by then;
  /// decode() does so itself otherwise. On a CPU nothing is compiled. Not while ranks may exchange anything, see
  /// ops::finish_plans().
  void plan_decode(Context& ctx, const nn::RowShards& shards, ConstView latents, const Scratch& scratch,
                   View image) const;

  /// moments = this rank's rows of encoder(image): mean, then log variance, not yet scaled: the same bits on any number
  /// of ranks.
  /// \param shards of the latent's rows. \param image f32 [shards.local(scale()).count, width, 3] in [-1, 1], the width
  /// a multiple of scale(). \param moments f32 [shards.local().count, width / scale, 2 * latent_channels].
  /// \throws Error cancelled between blocks, peer_failed
  void encode(Context& ctx, const nn::RowShards& shards, ConstView image, const Scratch& scratch, View moments,
              const nn::Probe& probe = {}) const;

  /// tokens = the means of moments, packed and normalised as the transformer of packed latents sees them.
  /// \param moments of encode(), any rows. \param tokens f32 [rows / patch * width / patch, packed_channels].
  void pack_means(Context& ctx, ConstView moments, View tokens) const;

 private:
  Config config_;
  Weights weights_;
  DType dtype_;
};

}  // namespace nostos::autoencoder_kl
