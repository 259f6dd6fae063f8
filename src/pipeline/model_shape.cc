// Reads the limits of a model folder.
#include "pipeline/model_shape.h"

#include <algorithm>

#include "base/error.h"
#include "io/json_config.h"
#include "models/autoencoder_kl/config.h"
#include "models/zimage/config.h"

namespace nostos {

namespace {

constexpr int64_t kMostTokens = 8192;  // that rotary tables are made for, whatever a config says

}  // namespace

ModelShape read_model_shape(const std::filesystem::path& folder) {
  const zimage::Config transformer = zimage::load_config(folder / "transformer" / "config.json");
  const autoencoder_kl::Config vae = autoencoder_kl::load_config(folder / "vae" / "config.json");
  return {read_limits(folder, transformer, vae), transformer.patch, transformer.heads, transformer.head_dim()};
}

ModelLimits read_limits(const std::filesystem::path& folder, const zimage::Config& transformer,
                        const autoencoder_kl::Config& vae) {
  ModelLimits limits;
  limits.size_multiple = vae.scale() * transformer.patch;
  limits.token_multiple = zimage::kTokenMultiple;
  limits.latent_channels = transformer.in_channels;
  limits.latent_pixels = vae.scale();
  limits.max_side = std::min(transformer.axes_lens[1], transformer.axes_lens[2]) * limits.size_multiple;
  // The padded caption takes positions 1 .. Lp and the image plane Lp + 1: the first rotary axis must reach that far.
  limits.max_sequence_length =
      std::min((transformer.axes_lens[0] - 2) / zimage::kTokenMultiple * zimage::kTokenMultiple, kMostTokens);
  require(limits.max_sequence_length > 0, ErrorKind::model,
          "{}: axes_lens[0] is {}, too short for any caption (34 at least)", folder.string(), transformer.axes_lens[0]);
  limits.default_height = std::min(limits.default_height, limits.max_side);
  limits.default_width = std::min(limits.default_width, limits.max_side);
  const std::optional<JsonConfig> json = JsonConfig::load_if_there(folder / "generation_config.json");
  if (!json) return limits;
  limits.default_steps = json->integer_or("num_inference_steps", limits.default_steps, 1, kMaxSteps);
  limits.default_guidance_scale = json->number_or("guidance_scale", limits.default_guidance_scale, 0, kMaxGuidance);
  limits.default_height = json->integer_or("height", limits.default_height, 1, limits.max_side);
  limits.default_width = json->integer_or("width", limits.default_width, 1, limits.max_side);
  return limits;
}

}  // namespace nostos
