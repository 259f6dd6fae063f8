// Owns a Z-Image model: its configs, its tokenizer, and its parts (Qwen3 text encoder, transformer, VAE, and a control
// network where one is given). Change it to add a part to Z-Image; its networks are in models/zimage, models/qwen3 and
// models/autoencoder_kl.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "families/family.h"
#include "families/part_files.h"
#include "families/pipeline_facts.h"
#include "models/autoencoder_kl/autoencoder.h"
#include "models/qwen3/encoder.h"
#include "models/zimage/control.h"
#include "models/zimage/file_layouts.h"
#include "models/zimage/transformer.h"
#include "text/tokenizer.h"

namespace nostos::zimage {

/// Classes of model_index.json. The pipelines that start from images have the same parts, those with a control network
/// one more.
inline constexpr std::array<std::string_view, 5> kPipelines{"ZImagePipeline", "ZImageImg2ImgPipeline",
                                                            "ZImageInpaintPipeline", "ZImageControlNetPipeline",
                                                            "ZImageControlNetInpaintPipeline"};

inline constexpr std::string_view kTransformerClass = "ZImageTransformer2DModel";

/// Attention's products in the first blocks, whose errors grow through all others: of the refiners both, of eight
/// layers the output's, which costs least for what it brings. And on real prompts one number of a token's input of
/// layers.0.feed_forward.w2 reaches 344,064, beside which 8 bits leave nothing of the others.
inline constexpr std::array<std::string_view, 13> kKeptProducts{
    "noise_refiner.0.attention.to_q.weight", "noise_refiner.0.attention.to_out.0.weight",
    "noise_refiner.1.attention.to_q.weight", "noise_refiner.1.attention.to_out.0.weight",
    "layers.0.attention.to_out.0.weight",    "layers.1.attention.to_out.0.weight",
    "layers.2.attention.to_out.0.weight",    "layers.3.attention.to_out.0.weight",
    "layers.4.attention.to_out.0.weight",    "layers.5.attention.to_out.0.weight",
    "layers.6.attention.to_out.0.weight",    "layers.7.attention.to_out.0.weight",
    "layers.0.feed_forward.w2.weight"};

/// The transformer as files have it.
inline constexpr PartKind kTransformer{
    "Z-Image transformer",
    "transformer",
    "--transformer",
    &ModelFiles::transformer,
    file_layouts,
    file_prefixes,
    [](const TensorShapes&) { return std::span(&kTransformerClass, 1); },
    [](const TensorShapes& shapes, const WeightStore&) { return guess_config(shapes); },
    true,
    kKeptProducts};

inline constexpr std::string_view kControlClass = "ZImageControlNetModel";

/// A control network as files have it.
inline constexpr PartKind kControlNetwork{"Z-Image control network",
                                          "controlnet",
                                          "--controlnet",
                                          &ModelFiles::controlnet,
                                          control_file_layouts,
                                          file_prefixes,
                                          [](const TensorShapes&) { return std::span(&kControlClass, 1); },
                                          guess_control_config,
                                          false};

/// \return what the pipeline is, as far as the model's files do not say it: that of Turbo, or of the base model.
/// \throws Error model if what the files do say is damaged
PipelineFacts pipeline_facts(const FamilyOptions& options);

/// \return the shape of the model, from its configs.
/// \throws Error model naming file and field
ModelShape read_shape(const FamilyOptions& options);

/// A Z-Image model with its networks by their types. The pipeline sees the Family alone.
class Model : public Family {
 public:
  /// Reads every config and the tokenizer, and checks all weights. Loads no weights.
  /// \throws Error model naming file and field
  Model(Context& ctx, const FamilyOptions& options);

  DType dtype() const override { return options_.dtype; }
  const Config& transformer_config() const { return transformer_config_; }
  const qwen3::Config& encoder_config() const { return encoder_config_; }
  const autoencoder_kl::Config& vae_config() const { return vae_config_; }
  const SchedulerConfig& scheduler_config() const { return scheduler_config_; }
  /// \return the config of the control network, null without one.
  const ControlConfig* control_config() const { return control_config_ ? &*control_config_ : nullptr; }

  /// The networks. Each must be loaded when it is asked for.
  const qwen3::Encoder& encoder() const { return encoder_->get(); }
  const Transformer& transformer() const { return transformer_->get(); }
  const autoencoder_kl::Autoencoder& autoencoder() const { return autoencoder_->get(); }
  const ControlNetwork& control() const { return control_->get(); }

  const ModelShape& shape() const override { return shape_; }
  Schedule schedule(int64_t steps, std::span<const double> sigmas, int64_t image_tokens) const override;
  std::span<ModelPart* const> parts() const override { return parts_; }
  const StageParts& stage_parts() const override { return stage_parts_; }
  std::string_view name() const override { return "Z-Image"; }
  bool embeds_with(std::string_view part, std::string_view tensor) const override;
  std::pair<int64_t, int64_t> largest_product() const override;
  /// A synthetic model without a tokenizer makes one token of each byte.
  PromptTokens tokenize(std::string_view prompt, int64_t max_tokens = 512) const override;
  Shape embedding_shape(const PromptLength& prompt) const override;
  std::unique_ptr<PromptEncoding> take_prompts(Arena& arena, std::span<const PromptLength> prompts,
                                               View embeddings) const override;
  std::unique_ptr<Denoiser> take_denoiser(Arena& arena, const DenoiserPlan& plan) const override;
  std::unique_ptr<Decoder> take_decoder(Arena& arena, const nn::RowShards& shards, int64_t height,
                                        int64_t width) const override;
  std::unique_ptr<Encoder> take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const override;
  /// Moments: [latent height, latent width, 2 * channels].
  Shape encoding_shape(const parallel::Grid& grid) const override;
  void to_latents(Context& ctx, ConstView encoding, ConstView noise, View latents) const override;
  void to_condition(Context& ctx, const ControlInputs& inputs, View condition) const override;

 private:
  void read_control(const FamilyOptions& options);
  void make_parts(Context& ctx);
  void make_control(Context& ctx);

  FamilyOptions options_;
  PartFiles encoder_files_, transformer_files_, autoencoder_files_;
  std::optional<PartFiles> control_files_;
  Config transformer_config_;
  std::optional<ControlConfig> control_config_;
  qwen3::Config encoder_config_;
  autoencoder_kl::Config vae_config_;
  SchedulerConfig scheduler_config_;
  ModelShape shape_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<ModelPartOf<qwen3::Encoder>> encoder_;
  std::unique_ptr<ModelPartOf<Transformer>> transformer_;
  std::unique_ptr<ModelPartOf<autoencoder_kl::Autoencoder>> autoencoder_;
  std::unique_ptr<ModelPartOf<ControlNetwork>> control_;  // or null
  std::vector<ModelPart*> parts_;
  StageParts stage_parts_{.text = {0, 1}, .encode = {2}, .denoise = {1}, .decode = {2}, .control = {}};
};

}  // namespace nostos::zimage
