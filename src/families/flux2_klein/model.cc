// Reads a FLUX.2-klein folder and loads its parts.
#include "families/flux2_klein/model.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "families/flux2_klein/denoiser.h"
#include "families/flux2_klein/prompt_encoding.h"
#include "families/shared_parts.h"
#include "io/json_config.h"
#include "models/autoencoder_kl/file_layouts.h"
#include "ops/patches.h"

namespace nostos::flux2_klein {
namespace {

constexpr int64_t kMostTokens = 8192;  // that the text encoder's rotary table is made for
constexpr int64_t kMaxReferences = 16;
constexpr std::array kFeatureLayers{int64_t{9}, int64_t{18}, int64_t{27}};  // stand in no config
constexpr std::array<PartClass, 3> kPartClasses{{{"transformer", kTransformerClass},
                                                 {"vae", "AutoencoderKLFlux2"},
                                                 {"scheduler", "FlowMatchEulerDiscreteScheduler"}}};

ModelShape shape_of(const FamilyOptions& options, const flux2::Config& transformer, const autoencoder_kl::Config& vae) {
  const bool is_distilled = *pipeline_facts(options).is_distilled;
  ModelLimits limits;
  limits.size_multiple = vae.scale() * vae.patch;
  limits.latent_channels = transformer.in_channels;
  limits.pixels_per_latent = vae.scale() * vae.patch;
  limits.default_steps = is_distilled ? 4 : 50;
  limits.default_guidance_scale = is_distilled ? 1 : 4;
  limits.guidance = is_distilled ? GuidanceForm::none : GuidanceForm::from_negative;
  limits.max_sequence_length = kMostTokens;
  limits.max_reference_images = kMaxReferences;
  limits.default_strength = limits.default_mask_strength = 0.8;
  require(options.files.controlnet.empty(), ErrorKind::model,
          "{}: nostos has no control networks for FLUX.2-klein: leave --controlnet out",
          options.files.controlnet.string());
  read_generation_config(options, limits);
  return {.limits = limits,
          .patch = 1,
          .heads = transformer.heads,
          .head_dim = transformer.head_dim,
          .mask_scaling = MaskScaling::bilinear,
          .pads_prompts = true};
}

qwen3::Config load_encoder_config(const JsonConfig& json) {
  qwen3::Config config = qwen3::load_config(json);
  require(config.layers > kFeatureLayers.back(), ErrorKind::model,
          "{}: field 'num_hidden_layers' is {}, the features are the outputs of layers 9, 18 and 27", json.name(),
          config.layers);
  config.feature_layers.assign(kFeatureLayers.begin(), kFeatureLayers.end());
  config.pads = true;
  return config;
}

SchedulerConfig read_scheduler_config(const FamilyOptions& options) {
  const ModelFiles& files = options.files;
  if (files.folder().empty()) {
    const auto config = config_in_file(options, "config.scheduler");
    return config ? load_scheduler_config(*config, Shifting::dynamic) : pipeline_facts(options).scheduler;
  }
  return load_scheduler_config(files.folder() / "scheduler" / "scheduler_config.json", Shifting::dynamic);
}

}  // namespace

PipelineFacts pipeline_facts(const FamilyOptions& options) {
  const ModelFiles& files = options.files;
  const std::filesystem::path folder = files.folder();
  const auto index = folder.empty() ? std::nullopt : JsonConfig::load_if_there(folder / "model_index.json");
  const bool is_distilled = index ? index->boolean_or("is_distilled", false)
                                  : !files.is_base && text_in_file(options, "is_distilled").value_or("true") == "true";
  return {.class_name = kPipelines.front(),
          .shifting = Shifting::dynamic,
          .scheduler = {.shift = 3},  // which dynamic shifting passes over
          .is_distilled = is_distilled,
          .defaults = {}};
}

ModelShape read_shape(const FamilyOptions& options) {
  return shape_of(options, flux2::load_config(PartFiles(options, kTransformer).config()),
                  autoencoder_kl::load_flux2_config(PartFiles(options, kVae).config()));
}

Model::Model(Context& ctx, const FamilyOptions& options)
    : options_(options),
      encoder_files_(options, kTextEncoder),
      transformer_files_(options, kTransformer),
      autoencoder_files_(options, kVae) {
  check_part_classes(options.files, kPartClasses);
  transformer_config_ = flux2::load_config(transformer_files_.config());
  transformer_config_.rounds_scores = rounds_scores(ctx, options, transformer_config_.head_dim);
  encoder_config_ = load_encoder_config(encoder_files_.config());
  vae_config_ = autoencoder_kl::load_flux2_config(autoencoder_files_.config());
  scheduler_config_ = read_scheduler_config(options);
  const std::string transformer = transformer_files_.path().string();
  require(transformer_config_.text_width == encoder_config_.feature_width(), ErrorKind::model,
          "{} takes texts of width {} (joint_attention_dim), {} gives 3 * {} (hidden_size)", transformer,
          transformer_config_.text_width, encoder_files_.path().string(), encoder_config_.hidden);
  require(transformer_config_.in_channels == vae_config_.packed_channels(), ErrorKind::model,
          "{} takes {} channels (in_channels), {} gives {} * {} * {} (latent_channels, patch_size)", transformer,
          transformer_config_.in_channels, autoencoder_files_.path().string(), vae_config_.latent_channels,
          vae_config_.patch, vae_config_.patch);
  shape_ = shape_of(options, transformer_config_, vae_config_);
  tokenizer_ = find_tokenizer(options, encoder_files_);
  if (tokenizer_) {
    const std::vector<int32_t> pad = tokenizer_->encode("<|endoftext|>");
    require(pad.size() == 1, ErrorKind::model, "the tokenizer has no token <|endoftext|> to pad prompts with");
    pad_token_ = pad.front();
  }
  require_variant(options, {&encoder_files_, &transformer_files_, &autoencoder_files_});
  make_parts(ctx);
}

void Model::make_parts(Context& ctx) {
  encoder_ = make_text_encoder(ctx, encoder_files_, encoder_config_, shape_.limits.max_sequence_length);
  const auto walk = [config = transformer_config_](WeightBuilder& builder) {
    return flux2::build_weights(config, builder);
  };
  transformer_ = make_part<flux2::Transformer>(
      ctx, transformer_files_, "transformer", walk, [this](Context&, flux2::Weights weights) {
        return flux2::Transformer(transformer_config_, std::move(weights), options_.dtype);
      });
  autoencoder_ = make_vae(ctx, autoencoder_files_, vae_config_);
  parts_ = {encoder_.get(), transformer_.get(), autoencoder_.get()};
}

Schedule Model::schedule(int64_t steps, std::span<const double> sigmas, int64_t image_tokens) const {
  return make_empirical_schedule(scheduler_config_, steps, sigmas, image_tokens);
}

bool Model::embeds_with(std::string_view part, std::string_view tensor) const {
  return part == encoder_->adapted_as() || tensor.starts_with("context_embedder.");
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
  return std::make_unique<VaeDecoder>(arena, autoencoder(), shards, height, width, stripe_bytes(*this));
}

std::unique_ptr<Encoder> Model::take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const {
  return std::make_unique<PackedMeanEncoder>(arena, autoencoder(), shards, width, stripe_bytes(*this));
}

Shape Model::encoding_shape(const parallel::Grid& grid) const { return {grid.tokens(), shape_.patch_width()}; }

void Model::to_latents(Context& ctx, ConstView encoding, ConstView, View latents) const {
  ops::unpatchify(ctx, encoding, shape_.patch, latents);
}

void Model::to_condition(Context&, const ControlInputs&, View) const { check(false, "FLUX.2-klein has no control"); }

}  // namespace nostos::flux2_klein
