// Owns what the configs of a model folder say about sizes, before any weight is there.
#pragma once

#include <cstdint>
#include <filesystem>

#include "pipeline/request.h"

namespace nostos {

namespace zimage {
struct Config;
}
namespace autoencoder_kl {
struct Config;
}

/// What a shard plan needs to know of a model.
struct ModelShape {
  ModelLimits limits;
  int64_t patch = 0;  ///< latent elements along one side of a token
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t token_multiple = 1;  ///< the image's sequence is padded to a multiple of this
};

/// Reads the transformer's, the VAE's and the folder's own configs. \throws Error model naming file and field
ModelShape read_model_shape(const std::filesystem::path& folder);

/// \return limits of these configs, with the steps, guidance and size of the folder's generation_config.json; without
/// one those of Z-Image-Turbo. \throws Error model naming file and field
ModelLimits read_limits(const std::filesystem::path& folder, const zimage::Config& transformer,
                        const autoencoder_kl::Config& vae);

}  // namespace nostos
