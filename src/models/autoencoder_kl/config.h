// Owns the shape of a FLUX-style VAE.
#pragma once

#include <cstdint>
#include <vector>

#include "io/json_config.h"
#include "models/tensor_shapes.h"

namespace nostos::autoencoder_kl {

/// vae/config.json of an AutoencoderKL or an AutoencoderKLFlux2.
struct Config {
  int64_t image_channels = 3;
  int64_t latent_channels = 16;
  std::vector<int64_t> block_channels{128, 256, 512, 512};  ///< outermost level first
  std::vector<int64_t> decoder_channels{};                  ///< the decoder's own, likewise; empty: block_channels
  int64_t layers_per_block = 2;
  int64_t norm_groups = 32;
  bool mid_attention = true;
  bool quant_conv = false;
  bool post_quant_conv = false;
  float scaling_factor = 0.3611f;
  float shift_factor = 0.1159f;
  /// Elements along one side of a packed latent, in which AutoencoderKLFlux2 normalises by batch statistics in the
  /// place of scale and shift; 1: latents are not packed.
  int64_t patch = 1;
  float batch_norm_eps = 0;

  bool is_packed() const { return patch > 1; }
  /// \return channels of latents as a transformer sees them.
  int64_t packed_channels() const { return latent_channels * patch * patch; }
  const std::vector<int64_t>& channels_of_decoder() const {
    return decoder_channels.empty() ? block_channels : decoder_channels;
  }
  /// Pixels along one side of an element of unpacked latents: 2 for every level but one.
  int64_t scale() const { return int64_t{1} << (block_channels.size() - 1); }

  friend bool operator==(const Config&, const Config&) = default;
};

/// Of an AutoencoderKL. \throws Error model naming file and field.
Config load_config(const JsonConfig& json);
/// Of an AutoencoderKLFlux2. \throws Error model naming file and field.
Config load_flux2_config(const JsonConfig& json);

/// \return whether the file's VAE is an AutoencoderKLFlux2, which has batch statistics.
bool is_flux2(const TensorShapes& shapes);

/// \return the config of a VAE whose file comes without one: FLUX.1's, or, if it has batch statistics, FLUX.2's, with
/// any channels in the decoder. \throws Error model if neither can be meant. Latents of 16 channels are taken for
/// FLUX.1's: shapes do not say by what they are scaled.
JsonConfig guess_config(const TensorShapes& shapes);

}  // namespace nostos::autoencoder_kl
