// Owns the two ways between images and FLUX.2's packed latents, on the rows of one rank. Model makes them.
#pragma once

#include <cstdint>

#include "families/family.h"
#include "models/autoencoder_kl/autoencoder.h"

namespace nostos::flux2_klein {

/// \param shards, here and below, of the rows of packed latents; height and width of these
class VaeDecoder final : public Decoder {
 public:
  VaeDecoder(Arena& arena, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards, int64_t height,
             int64_t width);
  void decode(Context& ctx, ConstView latents, View image) const override;
  void plan(Context& ctx, ConstView latents, View image) const override;

 private:
  const autoencoder_kl::Autoencoder& vae_;
  nn::RowShards shards_;  // of unpacked latents
  autoencoder_kl::Scratch scratch_;
};

/// An image's latents are the mean that the VAE gives: nothing is drawn at random.
class VaeEncoder final : public Encoder {
 public:
  VaeEncoder(Arena& arena, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards, int64_t height,
             int64_t width);
  void encode(Context& ctx, ConstView image, View tokens) const override;

 private:
  const autoencoder_kl::Autoencoder& vae_;
  nn::RowShards packed_, shards_;  // the latter of unpacked latents
  View moments_;                   // f32 [this rank's rows, width, 2 * latent channels], unpacked
  autoencoder_kl::Scratch scratch_;
};

}  // namespace nostos::flux2_klein
