// Reads a FLUX.2-klein folder and loads its parts.
#include "families/flux2_klein/model.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "families/flux2_klein/denoiser.h"
#include "families/flux2_klein/prompt_encoding.h"
#include "families/shared_parts.h"
#include "families/weights_folder.h"
#include "io/json_config.h"

namespace nostos::flux2_klein {
namespace {

constexpr int64_t kMostTokens = 8192;  // that the text encoder's rotary table is made for
constexpr int64_t kMaxReferences = 16;
constexpr std::array kFeatureLayers{int64_t{9}, int64_t{18}, int64_t{27}};  // stand in no config
constexpr std::array<std::string_view, 3> kPartsWithWeights{"text_encoder", "transformer", "vae"};
constexpr std::array<PartClass, 3> kPartClasses{{{"transformer", kTransformerClass},
                                                 {"vae", "AutoencoderKLFlux2"},
                                                 {"scheduler", "FlowMatchEulerDiscreteScheduler"}}};

ModelShape shape_of(const std::filesystem::path& folder, const flux2::Config& transformer,
                    const autoencoder_kl::Config& vae) {
  const auto index = JsonConfig::load_if_there(folder / "model_index.json");
  const bool is_distilled = !index || index->boolean_or("is_distilled", false);
  ModelLimits limits;
  limits.size_multiple = vae.scale() * vae.patch;
  limits.latent_channels = transformer.in_channels;
  limits.pixels_per_latent = vae.scale() * vae.patch;
  limits.default_steps = is_distilled ? 4 : 50;
  limits.default_guidance_scale = is_distilled ? 1 : 4;
  limits.guidance = is_distilled ? GuidanceForm::none : GuidanceForm::from_negative;
  limits.max_sequence_length = kMostTokens;
  limits.max_reference_images = kMaxReferences;
  read_generation_config(folder, limits);
  return {
      .limits = limits, .patch = 1, .heads = transformer.heads, .head_dim = transformer.head_dim, .pads_prompts = true};
}

flux2::Config load_transformer_config(const std::filesystem::path& folder) {
  return flux2::load_config(JsonConfig::load(folder / "transformer" / "config.json"));
}

autoencoder_kl::Config load_vae_config(const std::filesystem::path& folder) {
  return autoencoder_kl::load_flux2_config(JsonConfig::load(folder / "vae" / "config.json"));
}

qwen3::Config load_encoder_config(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "text_encoder" / "config.json";
  qwen3::Config config = qwen3::load_config(JsonConfig::load(file));
  require(config.layers > kFeatureLayers.back(), ErrorKind::model,
          "{}: field 'num_hidden_layers' is {}, the features are the outputs of layers 9, 18 and 27", file.string(),
          config.layers);
  config.feature_layers.assign(kFeatureLayers.begin(), kFeatureLayers.end());
  config.pads = true;
  return config;
}

}  // namespace

ModelShape read_shape(const std::filesystem::path& folder) {
  return shape_of(folder, load_transformer_config(folder), load_vae_config(folder));
}

Model::Model(Context& ctx, const FamilyOptions& options) : options_(options) {
  const std::filesystem::path& folder = options.folder;
  check_part_classes(folder, kPartClasses);
  transformer_config_ = load_transformer_config(folder);
  encoder_config_ = load_encoder_config(folder);
  vae_config_ = load_vae_config(folder);
  scheduler_config_ = load_scheduler_config(folder / "scheduler" / "scheduler_config.json", Shifting::dynamic);
  require(transformer_config_.text_width == encoder_config_.feature_width(), ErrorKind::model,
          "{}: the transformer takes texts of width {} (joint_attention_dim), the text encoder gives 3 * {} "
          "(hidden_size)",
          folder.string(), transformer_config_.text_width, encoder_config_.hidden);
  require(
      transformer_config_.in_channels == vae_config_.packed_channels(), ErrorKind::model,
      "{}: the transformer takes {} channels (in_channels), the VAE gives {} * {} * {} (latent_channels, patch_size)",
      folder.string(), transformer_config_.in_channels, vae_config_.latent_channels, vae_config_.patch,
      vae_config_.patch);
  shape_ = shape_of(folder, transformer_config_, vae_config_);
  if (!options.synthetic || std::filesystem::exists(folder / "tokenizer")) {
    tokenizer_ = Tokenizer::load(folder / "tokenizer");
    const std::vector<int32_t> pad = tokenizer_->encode("<|endoftext|>");
    require(pad.size() == 1, ErrorKind::model, "{}: the tokenizer has no token <|endoftext|> to pad prompts with",
            folder.string());
    pad_token_ = pad.front();
  }
  require_variant(options, kPartsWithWeights);
  make_parts(ctx);
}

void Model::make_parts(Context& ctx) {
  encoder_ = make_text_encoder(ctx, options_, encoder_config_, shape_.limits.max_sequence_length);
  const auto walk = [this](Context& on, WeightWalk how, const WeightPlacement& placement) {
    WeightBuilder builder = weights_of(on, options_, "transformer", how, placement);
    return flux2::build_weights(transformer_config_, builder);
  };
  transformer_ = make_part<flux2::Transformer>(ctx, "transformer", walk, [this](Context&, flux2::Weights weights) {
    return flux2::Transformer(transformer_config_, std::move(weights), options_.dtype);
  });
  autoencoder_ = make_vae(ctx, options_, vae_config_, true);
  parts_ = {encoder_.get(), transformer_.get(), autoencoder_.get()};
}

Schedule Model::schedule(int64_t steps, std::span<const double> sigmas, int64_t image_tokens) const {
  return make_empirical_schedule(scheduler_config_, steps, sigmas, image_tokens);
}

std::pair<int64_t, int64_t> Model::largest_product() const {
  return {transformer_config_.hidden(), 2 * transformer_config_.ffn()};
}

PromptTokens Model::tokenize(std::string_view prompt, int64_t max_tokens) const {
  return tokenizer_ ? tokenize_prompt(*tokenizer_, prompt, max_tokens, Thinking::disabled)
                    : tokenize_bytes(prompt, max_tokens, encoder_config_.vocabulary, Thinking::disabled);
}

Shape Model::embedding_shape(const PromptLength& prompt) const {
  return {shape_.prompt_rows(prompt.tokens, prompt.max_tokens), transformer_config_.hidden()};
}

std::unique_ptr<PromptEncoding> Model::take_prompts(Arena& arena, std::span<const PromptLength> prompts,
                                                    View embeddings) const {
  return std::make_unique<TextEncoding>(arena, *this, prompts, embeddings);
}

std::unique_ptr<Denoiser> Model::take_denoiser(Arena& arena, const DenoiserPlan& plan) const {
  return std::make_unique<TransformerDenoiser>(arena, *this, plan);
}

std::unique_ptr<Decoder> Model::take_decoder(Arena& arena, const nn::RowShards& shards, int64_t height,
                                             int64_t width) const {
  return std::make_unique<VaeDecoder>(arena, autoencoder(), shards, height, width);
}

std::unique_ptr<Encoder> Model::take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const {
  return std::make_unique<VaeEncoder>(arena, autoencoder(), shards, width);
}

}  // namespace nostos::flux2_klein
