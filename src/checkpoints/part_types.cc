// Lists the parts.
#include "checkpoints/part_types.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>

#include "base/error.h"
#include "families/flux2_klein/model.h"
#include "families/shared_parts.h"
#include "families/zimage/model.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/weights.h"

namespace nostos {
namespace {

void walk_zimage(const JsonConfig& config, WeightBuilder& builder) {
  zimage::build_weights(zimage::load_config(config), builder);
}

std::string zimage_title(const JsonConfig& json) {
  const zimage::Config config = zimage::load_config(json);
  const zimage::Config published;
  if (config.hidden == published.hidden && config.layers == published.layers) return "Z-Image";
  return fmt::format("a Z-Image of {} layers, {} wide", config.layers, config.hidden);
}

void walk_flux2(const JsonConfig& config, WeightBuilder& builder) {
  flux2::build_weights(flux2::load_config(config), builder);
}

std::string flux2_title(const JsonConfig& json) {
  const flux2::Config config = flux2::load_config(json);
  const std::array dimensions{config.hidden(), config.double_layers, config.single_layers};
  if (dimensions == std::array<int64_t, 3>{3072, 5, 20}) return "FLUX.2-klein 4B";
  if (dimensions == std::array<int64_t, 3>{4096, 8, 24}) return "FLUX.2-klein 9B";
  return fmt::format("a FLUX.2 of {} + {} layers, {} wide", config.double_layers, config.single_layers,
                     config.hidden());
}

void walk_qwen3(const JsonConfig& config, WeightBuilder& builder) {
  qwen3::build_weights(qwen3::load_config(config), builder);
}

std::string qwen3_title(const JsonConfig& json) {
  const qwen3::Config config = qwen3::load_config(json);
  const std::array dimensions{config.hidden, config.layers};
  if (dimensions == std::array<int64_t, 2>{2560, 36}) return "Qwen3-4B";
  if (dimensions == std::array<int64_t, 2>{4096, 36}) return "Qwen3-8B";
  return fmt::format("a Qwen3 of {} layers, {} wide", config.layers, config.hidden);
}

autoencoder_kl::Config load_vae_config(const JsonConfig& json) {
  // model_index.json may be the only place that names the class.
  const bool is_flux2 = json.has("patch_size") || json.string_or("_class_name", "") == "AutoencoderKLFlux2";
  return is_flux2 ? autoencoder_kl::load_flux2_config(json) : autoencoder_kl::load_config(json);
}

void walk_vae(const JsonConfig& config, WeightBuilder& builder) {
  autoencoder_kl::build_weights(load_vae_config(config), true, builder);
}

std::string vae_title(const JsonConfig& json) {
  const autoencoder_kl::Config config = load_vae_config(json);
  const std::vector<int64_t> published{128, 256, 512, 512};
  const std::string_view model = config.is_packed() ? "FLUX.2" : "FLUX.1";
  if (config.block_channels != published || config.latent_channels != (config.is_packed() ? 32 : 16))
    return fmt::format("a VAE as {}'s, of {} channels", model, fmt::join(config.block_channels, ", "));
  if (config.channels_of_decoder() != published)
    return fmt::format("{} VAE with a decoder of {} channels", model, fmt::join(config.channels_of_decoder(), ", "));
  return fmt::format("{} VAE", model);
}

constexpr std::array kTypes{
    PartType{&flux2_klein::kTransformer, walk_flux2, flux2_title},
    PartType{&zimage::kTransformer, walk_zimage, zimage_title},
    PartType{&kTextEncoder, walk_qwen3, qwen3_title},
    PartType{&kVae, walk_vae, vae_title},
};

/// Records what files may have, too.
class Listing final : public ListingSource {
 public:
  void ignored(const std::string& name) override { optional.push_back(name); }
  std::vector<std::string> optional;
};

}  // namespace

std::span<const PartType> part_types() { return kTypes; }

const PartType& part_type(const PartKind& kind) {
  const auto found = std::ranges::find(kTypes, &kind, &PartType::kind);
  check(found != kTypes.end(), "every kind of part is in the list");
  return *found;
}

PartTensors list_tensors(const PartType& type, const JsonConfig& config) {
  Context ctx({}, 1);
  const auto listing = std::make_shared<Listing>();
  WeightBuilder builder(ctx, listing, DType::f32);
  type.walk(config, builder);
  return {listing->shapes(), std::move(listing->optional)};
}

}  // namespace nostos
