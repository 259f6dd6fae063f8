// Owns the shape of a FLUX-style VAE.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace nostos::autoencoder_kl {

/// vae/config.json of an AutoencoderKL.
struct Config {
  int64_t image_channels = 3;
  int64_t latent_channels = 16;
  std::vector<int64_t> block_channels{128, 256, 512, 512};  ///< outermost level first
  int64_t layers_per_block = 2;
  int64_t norm_groups = 32;
  bool mid_attention = true;
  bool quant_conv = false;
  bool post_quant_conv = false;
  float scaling_factor = 0.3611f;
  float shift_factor = 0.1159f;

  /// Pixels along one side of a latent element: 2 for every level but one.
  int64_t scale() const { return int64_t{1} << (block_channels.size() - 1); }
};

/// \throws Error model naming file and field.
Config load_config(const std::filesystem::path& file);

}  // namespace nostos::autoencoder_kl
