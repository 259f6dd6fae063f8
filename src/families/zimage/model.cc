// Reads a Z-Image folder and loads its parts.
#include "families/zimage/model.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/shared_parts.h"
#include "families/zimage/denoiser.h"
#include "families/zimage/prompt_encoding.h"
#include "models/autoencoder_kl/file_layouts.h"
#include "ops/elementwise.h"
#include "ops/patches.h"

namespace nostos::zimage {
namespace {

constexpr int64_t kMostTokens = 8192;  // that rotary tables are made for, whatever a config says
constexpr std::array<PartClass, 4> kPartClasses{{{"transformer", kTransformerClass},
                                                 {"vae", "AutoencoderKL"},
                                                 {"scheduler", "FlowMatchEulerDiscreteScheduler"},
                                                 {"controlnet", kControlClass}}};

ModelShape shape_of(const FamilyOptions& options, const Config& transformer, const autoencoder_kl::Config& vae) {
  ModelLimits limits;
  limits.size_multiple = vae.scale() * transformer.patch;
  limits.token_multiple = kTokenMultiple;
  limits.latent_channels = transformer.in_channels;
  limits.pixels_per_latent = vae.scale();
  limits.control = ControlSupport::not_loaded;
  limits.max_side = std::min(transformer.axes_lens[1], transformer.axes_lens[2]) * limits.size_multiple;
  // The padded caption takes positions 1 .. Lp and the image plane Lp + 1: the first rotary axis must reach that far.
  limits.max_sequence_length = std::min((transformer.axes_lens[0] - 2) / kTokenMultiple * kTokenMultiple, kMostTokens);
  require(limits.max_sequence_length > 0, ErrorKind::model,
          "the transformer's axes_lens[0] is {}, too short for any caption (34 at least)", transformer.axes_lens[0]);
  if (const auto defaults = pipeline_facts(options).defaults) {
    limits.default_steps = defaults->steps;
    limits.default_guidance_scale = defaults->guidance_scale;
  }
  read_generation_config(options, limits);
  return {.limits = limits,
          .patch = transformer.patch,
          .heads = transformer.heads,
          .head_dim = transformer.head_dim(),
          .draws_latents = true};
}

/// Says in `shape` what a control network is given.
void add_control(const ControlConfig& control, const Config& transformer, ModelShape& shape) {
  shape.limits.control = ControlSupport::loaded;
  shape.control_channels = control.dims.in_channels;
  shape.limits.control_sees_mask = control.dims.in_channels > transformer.in_channels;
  const bool runs_twice = control.refiner == ControlRefiner::control_layers;
  shape.control_blocks = control.dims.layers * (runs_twice ? 2 : 1) + control.refiner_blocks();
}

/// \return the control network that was asked for, or else the one that the model's folder names; nothing without one.
std::optional<PartFiles> find_control(const FamilyOptions& options) {
  const std::filesystem::path folder = options.files.folder();
  const auto index = folder.empty() ? std::nullopt : JsonConfig::load_if_there(folder / "model_index.json");
  const bool has_own = index && index->has(kControlNetwork.folder);
  if (options.files.controlnet.empty() && !has_own) return std::nullopt;
  return PartFiles(options, kControlNetwork);
}

SchedulerConfig read_scheduler_config(const FamilyOptions& options) {
  const ModelFiles& files = options.files;
  if (files.folder().empty())
    if (const auto config = config_in_file(options, "config.scheduler")) return load_scheduler_config(*config);
  if (files.folder().empty()) return pipeline_facts(options).scheduler;
  return load_scheduler_config(files.folder() / "scheduler" / "scheduler_config.json");
}

}  // namespace

PipelineFacts pipeline_facts(const FamilyOptions& options) {
  PipelineFacts facts{.class_name = kPipelines.front(),
                      .shifting = Shifting::fixed,
                      .scheduler = {.shift = 3},
                      .is_distilled = {},
                      .defaults = {}};
  if (!options.files.is_base) return facts;
  facts.scheduler.shift = 6;
  facts.defaults = {.steps = 50, .guidance_scale = 4};
  return facts;
}

ModelShape read_shape(const FamilyOptions& options) {
  const Config transformer = load_config(PartFiles(options, kTransformer).config());
  ModelShape shape = shape_of(options, transformer, autoencoder_kl::load_config(PartFiles(options, kVae).config()));
  if (const auto control = find_control(options))
    add_control(load_control_config(control->config()), transformer, shape);
  return shape;
}

Model::Model(Context& ctx, const FamilyOptions& options)
    : options_(options),
      encoder_files_(options, kTextEncoder),
      transformer_files_(options, kTransformer),
      autoencoder_files_(options, kVae) {
  check_part_classes(options.files, kPartClasses);
  transformer_config_ = load_config(transformer_files_.config());
  transformer_config_.rounds_scores = rounds_scores(ctx, options, transformer_config_.head_dim());
  encoder_config_ = qwen3::load_config(encoder_files_.config());
  vae_config_ = autoencoder_kl::load_config(autoencoder_files_.config());
  scheduler_config_ = read_scheduler_config(options);
  require(transformer_config_.caption_width == encoder_config_.hidden, ErrorKind::model,
          "{} takes captions of width {} (cap_feat_dim), {} gives {} (hidden_size)", transformer_files_.path().string(),
          transformer_config_.caption_width, encoder_files_.path().string(), encoder_config_.hidden);
  require(transformer_config_.in_channels == vae_config_.latent_channels, ErrorKind::model,
          "{} takes {} latent channels (in_channels), {} gives {} (latent_channels)",
          transformer_files_.path().string(), transformer_config_.in_channels, autoencoder_files_.path().string(),
          vae_config_.latent_channels);
  shape_ = shape_of(options, transformer_config_, vae_config_);
  read_control(options);
  tokenizer_ = find_tokenizer(options, encoder_files_);
  require_variant(options, {&encoder_files_, &transformer_files_, &autoencoder_files_});
  make_parts(ctx);
}

void Model::read_control(const FamilyOptions& options) {
  control_files_ = find_control(options);
  if (!control_files_) return;
  control_config_ = load_control_config(control_files_->config());
  control_config_->dims.rounds_scores = transformer_config_.rounds_scores;
  check_control(*control_config_, transformer_config_, control_files_->path().string());
  add_control(*control_config_, transformer_config_, shape_);
}

void Model::make_parts(Context& ctx) {
  const int64_t max_tokens = shape_.limits.max_sequence_length;
  encoder_ = make_text_encoder(ctx, encoder_files_, encoder_config_, max_tokens);
  const auto walk = [config = transformer_config_](WeightBuilder& builder) { return build_weights(config, builder); };
  transformer_ = make_part<Transformer>(
      ctx, transformer_files_, "transformer", walk, [this, max_tokens](Context& on, Weights weights) {
        return Transformer(on, transformer_config_, std::move(weights), options_.dtype, max_tokens);
      });
  autoencoder_ = make_vae(ctx, autoencoder_files_, vae_config_);
  parts_ = {encoder_.get(), transformer_.get(), autoencoder_.get()};
  if (control_config_) make_control(ctx);
}

void Model::make_control(Context& ctx) {
  const auto walk = [config = *control_config_](WeightBuilder& builder) {
    return build_control_weights(config, builder);
  };
  control_ = make_part<ControlNetwork>(ctx, *control_files_, "control network", walk,
                                       [this](Context&, ControlWeights weights) {
                                         return ControlNetwork(*control_config_, std::move(weights), options_.dtype);
                                       });
  stage_parts_.control = {parts_.size()};
  parts_.push_back(control_.get());
}

Schedule Model::schedule(int64_t steps, std::span<const double> sigmas, int64_t) const {
  return sigmas.empty() ? make_schedule(scheduler_config_, steps) : make_schedule(scheduler_config_, sigmas);
}

bool Model::embeds_with(std::string_view part, std::string_view tensor) const {
  return part == encoder_->adapted_as() || tensor.starts_with("cap_") || tensor.starts_with("context_refiner.");
}

std::pair<int64_t, int64_t> Model::largest_product() const {
  return {transformer_config_.hidden, 2 * transformer_config_.ffn()};
}

PromptTokens Model::tokenize(std::string_view prompt, int64_t max_tokens) const {
  return tokenizer_ ? tokenize_prompt(*tokenizer_, prompt, max_tokens)
                    : tokenize_bytes(prompt, max_tokens, encoder_config_.vocabulary);
}

Shape Model::embedding_shape(const PromptLength& prompt) const {
  return {shape_.prompt_rows(prompt.tokens, prompt.max_tokens), transformer_config_.hidden};
}

std::unique_ptr<PromptEncoding> Model::take_prompts(Arena& arena, std::span<const PromptLength> prompts,
                                                    View embeddings) const {
  return std::make_unique<CaptionEncoding>(arena, *this, prompts, embeddings);
}

std::unique_ptr<Denoiser> Model::take_denoiser(Arena& arena, const DenoiserPlan& plan) const {
  return std::make_unique<TransformerDenoiser>(arena, *this, plan);
}

std::unique_ptr<Decoder> Model::take_decoder(Arena& arena, const nn::RowShards& shards, int64_t height,
                                             int64_t width) const {
  return std::make_unique<VaeDecoder>(arena, autoencoder(), shards, height, width, stripe_bytes(*this));
}

std::unique_ptr<Encoder> Model::take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const {
  return std::make_unique<MomentsEncoder>(arena, autoencoder(), shards, width, stripe_bytes(*this));
}

Shape Model::encoding_shape(const parallel::Grid& grid) const {
  return {grid.height * shape_.patch, grid.width * shape_.patch, 2 * vae_config_.latent_channels};
}

void Model::to_latents(Context& ctx, ConstView encoding, ConstView noise, View latents) const {
  ops::sample_posterior(ctx, encoding, noise, vae_config_.scaling_factor, vae_config_.shift_factor, latents);
}

// Source: VideoX-Fun pipeline_z_image_control.py @804a425: control latents | 1 - mask | latents of what is known. There
// what a request has not got, a control image, or a mask and what it keeps, is zero: no encoding of grey.
void Model::to_condition(Context& ctx, const ControlInputs& inputs, View condition) const {
  const int64_t latents = transformer_config_.in_channels;
  // The mean is what is drawn with no noise, which may stand where the latents will.
  ops::clear(ctx, condition);
  const auto take_mean = [&](ConstView encoding, int64_t channel) {
    const View made = condition.rows(channel, latents);
    to_latents(ctx, encoding, made, made);
  };
  if (inputs.image) take_mean(inputs.image, 0);
  if (!inputs.is_known) return;
  ops::convert(ctx, inputs.is_known, condition.rows(latents, 1));
  take_mean(inputs.known, latents + 1);
}

}  // namespace nostos::zimage
