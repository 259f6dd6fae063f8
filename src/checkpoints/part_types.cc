// Lists the parts.
#include "checkpoints/part_types.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "families/flux2_klein/model.h"
#include "families/shared_parts.h"
#include "families/zimage/model.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/control_weights.h"
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

void walk_control(const JsonConfig& config, WeightBuilder& builder) {
  zimage::build_control_weights(zimage::load_control_config(config), builder);
}

std::string control_title(const JsonConfig& json) {
  const zimage::ControlConfig config = zimage::load_control_config(json);
  const auto is = [&](zimage::ControlRefiner refiner, int64_t layers, int64_t channels) {
    return config.refiner == refiner && config.dims.layers == layers && config.dims.in_channels == channels &&
           config.dims.hidden == zimage::Config().hidden;
  };
  if (is(zimage::ControlRefiner::plain_blocks, 6, 16)) return "Union 1.0";
  if (is(zimage::ControlRefiner::control_layers, 15, 33)) return "Union 2.0";
  if (is(zimage::ControlRefiner::control_blocks, 15, 33)) return "Union or Tile 2.1";
  if (is(zimage::ControlRefiner::control_blocks, 3, 33)) return "Union or Tile 2.1 lite";
  return fmt::format("a control network of {} layers, {} wide, for images of {} channels", config.dims.layers,
                     config.dims.hidden, config.dims.in_channels);
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
  autoencoder_kl::build_weights(load_vae_config(config), builder);
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

constexpr std::string_view kLanguageModel = "Qwen3ForCausalLM";  // has a head, and its names a prefix
constexpr std::string_view kHead = "lm_head.weight";

bool is_language_model(const JsonConfig& config) {
  const std::vector<std::string> classes = config.strings_or("architectures", {});
  return std::ranges::find(classes, kLanguageModel) != classes.end();
}

/// \return the layout of that title and, where one is given, that mark.
const CheckpointLayout& layout_of(std::span<const CheckpointLayout> layouts, std::string_view title,
                                  std::string_view mark = "") {
  const auto found = std::ranges::find_if(layouts, [&](const CheckpointLayout& layout) {
    return layout.title == title && (mark.empty() || layout.mark == mark);
  });
  check(found != layouts.end(), "a part's own layout is in its list");
  return *found;
}

const CheckpointLayout& own_zimage_layout(const JsonConfig&) {
  return layout_of(zimage::file_layouts(), "Z-Image's own");
}
const CheckpointLayout& own_control_layout(const JsonConfig&) {
  return layout_of(zimage::control_file_layouts(), "diffusers");
}
const CheckpointLayout& own_flux2_layout(const JsonConfig&) {
  return layout_of(flux2::file_layouts(), "Black Forest Labs'");
}
const CheckpointLayout& own_qwen3_layout(const JsonConfig&) { return layout_of(qwen3::file_layouts(), "transformers"); }
const CheckpointLayout& own_vae_layout(const JsonConfig& json) {
  const autoencoder_kl::Config config = load_vae_config(json);
  return layout_of(autoencoder_kl::file_layouts(), config.is_packed() ? "FLUX.2's own" : "latent diffusion",
                   fmt::format("decoder.up.{}.block.0.norm1.weight", config.block_channels.size() - 1));
}

std::string_view transformer_place(const JsonConfig&) { return "model.diffusion_model."; }
std::string_view vae_place(const JsonConfig&) { return "vae."; }
std::string_view text_encoder_place(const JsonConfig& config) {
  return qwen3::load_config(config).hidden == 4096 ? "text_encoders.qwen3_8b.transformer."
                                                   : "text_encoders.qwen3_4b.transformer.";
}

Shape same_shape(const std::string&, const Shape& shape) { return shape; }
/// Latent diffusion's attention is made of convolutions.
Shape own_vae_shape(const std::string& name, const Shape& shape) {
  if (name.find(".mid.attn_1.") == std::string::npos || shape.rank() != 2) return shape;
  return {shape[0], shape[1], 1, 1};
}

std::string same_name(const JsonConfig&, const std::string& name) { return name; }
std::string text_encoder_name(const JsonConfig& config, const std::string& name) {
  if (name == kHead) return is_language_model(config) ? name : "";
  return is_language_model(config) ? "model." + name : name;
}

nlohmann::ordered_json with_class(const JsonConfig& config, std::string_view name) {
  auto json = nlohmann::ordered_json::parse(config.dump());
  if (!json.contains("_class_name")) json["_class_name"] = name;
  return json;
}

std::string written(const nlohmann::ordered_json& json) { return json.dump(2) + "\n"; }

std::string zimage_folder_config(const JsonConfig& config, DType) {
  return written(with_class(config, zimage::kTransformerClass));
}
std::string control_folder_config(const JsonConfig& config, DType) {
  return written(with_class(config, "ZImageControlNetModel"));
}
std::string flux2_folder_config(const JsonConfig& config, DType) {
  return written(with_class(config, flux2_klein::kTransformerClass));
}
std::string qwen3_folder_config(const JsonConfig& config, DType dtype) {
  auto json = nlohmann::ordered_json::parse(config.dump());
  // transformers loads in the dtype that the config names.
  const std::string_view name = dtype == DType::bf16 ? "bfloat16" : dtype == DType::f16 ? "float16" : "float32";
  json.erase("torch_dtype");
  json["dtype"] = name;
  return written(json);
}
std::string vae_folder_config(const JsonConfig& config, DType) {
  const autoencoder_kl::Config read = load_vae_config(config);
  auto json = with_class(config, read.is_packed() ? "AutoencoderKLFlux2" : "AutoencoderKL");
  const size_t levels = read.block_channels.size();
  // Without these diffusers makes a VAE of one level.
  if (!json.contains("down_block_types"))
    json["down_block_types"] = std::vector<std::string>(levels, "DownEncoderBlock2D");
  if (!json.contains("up_block_types")) json["up_block_types"] = std::vector<std::string>(levels, "UpDecoderBlock2D");
  if (!read.is_packed()) json.erase("decoder_block_out_channels");
  return written(json);
}

constexpr std::string_view kDiffusersStem = "diffusion_pytorch_model";
constexpr std::array kTypes{
    PartType{&flux2_klein::kTransformer, walk_flux2, flux2_title, own_flux2_layout, "", transformer_place, same_shape,
             kDiffusersStem, "diffusers", same_name, flux2_folder_config},
    PartType{&zimage::kTransformer, walk_zimage, zimage_title, own_zimage_layout, "", transformer_place, same_shape,
             kDiffusersStem, "diffusers", same_name, zimage_folder_config},
    PartType{&zimage::kControlNetwork, walk_control, control_title, own_control_layout, "", transformer_place,
             same_shape, kDiffusersStem, "diffusers", same_name, control_folder_config},
    PartType{&kTextEncoder, walk_qwen3, qwen3_title, own_qwen3_layout, "model.", text_encoder_place, same_shape,
             "model", "transformers", text_encoder_name, qwen3_folder_config},
    PartType{&kVae, walk_vae, vae_title, own_vae_layout, "", vae_place, own_vae_shape, kDiffusersStem, "diffusers",
             same_name, vae_folder_config},
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

std::string class_of(const JsonConfig& config, const PartType& type) {
  const auto json = nlohmann::json::parse(type.folder_config(config, DType::f32));
  if (json.contains("_class_name")) return json["_class_name"];
  const std::vector<std::string> architectures = config.strings_or("architectures", {"Qwen3Model"});
  return architectures.empty() ? "Qwen3Model" : architectures.front();
}

PartTensors list_tensors(const PartType& type, const JsonConfig& config) {
  Context ctx({}, 1);
  const auto listing = std::make_shared<Listing>();
  WeightBuilder builder(ctx, listing, DType::f32);
  type.walk(config, builder);
  return {listing->shapes(), std::move(listing->optional)};
}

}  // namespace nostos
