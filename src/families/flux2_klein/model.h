// Owns a FLUX.2-klein model: its configs, its tokenizer, and its three parts (Qwen3 text encoder, transformer, VAE).
// Its networks are in models/flux2, models/qwen3 and models/autoencoder_kl.
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
#include "models/flux2/file_layouts.h"
#include "models/flux2/transformer.h"
#include "models/qwen3/encoder.h"
#include "text/tokenizer.h"

namespace nostos::flux2_klein {

/// Classes of model_index.json. The pipeline that inpaints has the same parts.
inline constexpr std::array<std::string_view, 2> kPipelines{"Flux2KleinPipeline", "Flux2KleinInpaintPipeline"};

inline constexpr std::string_view kTransformerClass = "Flux2Transformer2DModel";

/// The transformer as files have it.
inline constexpr PartKind kTransformer{
    "FLUX.2 transformer",
    "transformer",
    "--transformer",
    &ModelFiles::transformer,
    flux2::file_layouts,
    flux2::file_prefixes,
    [](const TensorShapes&) { return std::span(&kTransformerClass, 1); },
    [](const TensorShapes& shapes, const WeightStore&) { return flux2::guess_config(shapes); }};

/// \return what the pipeline is, as far as the model's files do not say it: that of the published models.
/// \throws Error model if what the files do say is damaged
PipelineFacts pipeline_facts(const FamilyOptions& options);

/// \return the shape of the model, from its configs.
/// \throws Error model naming file and field
ModelShape read_shape(const FamilyOptions& options);

/// A FLUX.2-klein model with its networks by their types. The pipeline sees the Family alone.
class Model : public Family {
 public:
  /// Reads every config and the tokenizer, and checks all weights. Loads no weights.
  /// \throws Error model naming file and field
  Model(Context& ctx, const FamilyOptions& options);

  DType dtype() const override { return options_.dtype; }
  const flux2::Config& transformer_config() const { return transformer_config_; }
  const qwen3::Config& encoder_config() const { return encoder_config_; }
  const autoencoder_kl::Config& vae_config() const { return vae_config_; }

  /// \return the id that prompts are padded with.
  int32_t pad_token() const { return pad_token_; }

  /// The networks. Each must be loaded when it is asked for.
  const qwen3::Encoder& encoder() const { return encoder_->get(); }
  const flux2::Transformer& transformer() const { return transformer_->get(); }
  const autoencoder_kl::Autoencoder& autoencoder() const { return autoencoder_->get(); }

  const ModelShape& shape() const override { return shape_; }
  Schedule schedule(int64_t steps, std::span<const double> sigmas, int64_t image_tokens) const override;
  std::span<ModelPart* const> parts() const override { return parts_; }
  const StageParts& stage_parts() const override { return stage_parts_; }
  std::string_view name() const override { return "FLUX.2-klein"; }
  bool embeds_with(std::string_view part, std::string_view tensor) const override;
  std::pair<int64_t, int64_t> largest_product() const override;
  PromptTokens tokenize(std::string_view prompt, int64_t max_tokens) const override;
  /// Every prompt is padded to the most tokens that it may have.
  Shape embedding_shape(const PromptLength& prompt) const override;
  std::unique_ptr<PromptEncoding> take_prompts(Arena& arena, std::span<const PromptLength> prompts,
                                               View embeddings) const override;
  std::unique_ptr<Denoiser> take_denoiser(Arena& arena, const DenoiserPlan& plan) const override;
  std::unique_ptr<Decoder> take_decoder(Arena& arena, const nn::RowShards& shards, int64_t height,
                                        int64_t width) const override;
  std::unique_ptr<Encoder> take_encoder(Arena& arena, const nn::RowShards& shards, int64_t width) const override;
  /// Packed means: [tokens, channels].
  Shape encoding_shape(const parallel::Grid& grid) const override;
  void to_latents(Context& ctx, ConstView encoding, ConstView noise, View latents) const override;
  void to_condition(Context& ctx, const ControlInputs& inputs, View condition) const override;

 private:
  void make_parts(Context& ctx);

  FamilyOptions options_;
  PartFiles encoder_files_, transformer_files_, autoencoder_files_;
  flux2::Config transformer_config_;
  qwen3::Config encoder_config_;
  autoencoder_kl::Config vae_config_;
  SchedulerConfig scheduler_config_;
  ModelShape shape_;
  std::optional<Tokenizer> tokenizer_;
  int32_t pad_token_ = 0;
  std::unique_ptr<ModelPartOf<qwen3::Encoder>> encoder_;
  std::unique_ptr<ModelPartOf<flux2::Transformer>> transformer_;
  std::unique_ptr<ModelPartOf<autoencoder_kl::Autoencoder>> autoencoder_;
  std::vector<ModelPart*> parts_;
  const StageParts stage_parts_{.text = {0, 1}, .encode = {2}, .denoise = {1}, .decode = {2}, .control = {}};
};

}  // namespace nostos::flux2_klein
