// Reads a Z-Image folder and loads its parts.
#include "families/zimage/model.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "families/shared_parts.h"
#include "families/weights_folder.h"
#include "families/zimage/denoiser.h"
#include "families/zimage/prompt_encoding.h"

namespace nostos::zimage {
namespace {

constexpr int64_t kMostTokens = 8192;  // that rotary tables are made for, whatever a config says
constexpr std::array<std::string_view, 3> kPartsWithWeights{"text_encoder", "transformer", "vae"};
constexpr std::array<PartClass, 3> kPartClasses{
    {{"transformer", kTransformerClass}, {"vae", "AutoencoderKL"}, {"scheduler", "FlowMatchEulerDiscreteScheduler"}}};

ModelShape shape_of(const std::filesystem::path& folder, const Config& transformer, const autoencoder_kl::Config& vae) {
  ModelLimits limits;
  limits.size_multiple = vae.scale() * transformer.patch;
  limits.token_multiple = kTokenMultiple;
  limits.latent_channels = transformer.in_channels;
  limits.pixels_per_latent = vae.scale();
  limits.max_side = std::min(transformer.axes_lens[1], transformer.axes_lens[2]) * limits.size_multiple;
  // The padded caption takes positions 1 .. Lp and the image plane Lp + 1: the first rotary axis must reach that far.
  limits.max_sequence_length = std::min((transformer.axes_lens[0] - 2) / kTokenMultiple * kTokenMultiple, kMostTokens);
  require(limits.max_sequence_length > 0, ErrorKind::model,
          "{}: axes_lens[0] is {}, too short for any caption (34 at least)", folder.string(), transformer.axes_lens[0]);
  read_generation_config(folder, limits);
  return {.limits = limits, .patch = transformer.patch, .heads = transformer.heads, .head_dim = transformer.head_dim()};
}

Config load_transformer_config(const std::filesystem::path& folder) {
  return load_config(JsonConfig::load(folder / "transformer" / "config.json"));
}

autoencoder_kl::Config load_vae_config(const std::filesystem::path& folder) {
  return autoencoder_kl::load_config(JsonConfig::load(folder / "vae" / "config.json"));
}

}  // namespace

ModelShape read_shape(const std::filesystem::path& folder) {
  return shape_of(folder, load_transformer_config(folder), load_vae_config(folder));
}

Model::Model(Context& ctx, const FamilyOptions& options) : options_(options) {
  const std::filesystem::path& folder = options.folder;
  check_part_classes(folder, kPartClasses);
  transformer_config_ = load_transformer_config(folder);
  encoder_config_ = qwen3::load_config(JsonConfig::load(folder / "text_encoder" / "config.json"));
  vae_config_ = load_vae_config(folder);
  scheduler_config_ = load_scheduler_config(folder / "scheduler" / "scheduler_config.json");
  require(transformer_config_.caption_width == encoder_config_.hidden, ErrorKind::model,
          "{}: the transformer takes captions of width {} (cap_feat_dim), the text encoder gives {} (hidden_size)",
          folder.string(), transformer_config_.caption_width, encoder_config_.hidden);
  require(transformer_config_.in_channels == vae_config_.latent_channels, ErrorKind::model,
          "{}: the transformer takes {} latent channels (in_channels), the VAE gives {} (latent_channels)",
          folder.string(), transformer_config_.in_channels, vae_config_.latent_channels);
  shape_ = shape_of(folder, transformer_config_, vae_config_);
  if (!options.synthetic || std::filesystem::exists(folder / "tokenizer"))
    tokenizer_ = Tokenizer::load(folder / "tokenizer");
  require_variant(options, kPartsWithWeights);
  make_parts(ctx);
}

void Model::make_parts(Context& ctx) {
  const int64_t max_tokens = shape_.limits.max_sequence_length;
  encoder_ = make_text_encoder(ctx, options_, encoder_config_, max_tokens);
  const auto walk = [this](Context& on, WeightWalk how, const WeightPlacement& placement) {
    WeightBuilder builder = weights_of(on, options_, "transformer", how, placement);
    return build_weights(transformer_config_, builder);
  };
  transformer_ = make_part<Transformer>(ctx, "transformer", walk, [this, max_tokens](Context& on, Weights weights) {
    return Transformer(on, transformer_config_, std::move(weights), options_.dtype, max_tokens);
  });
  autoencoder_ = make_vae(ctx, options_, vae_config_, false);
  parts_ = {encoder_.get(), transformer_.get(), autoencoder_.get()};
}

Schedule Model::schedule(int64_t steps, std::span<const double> sigmas, int64_t) const {
  return sigmas.empty() ? make_schedule(scheduler_config_, steps) : make_schedule(scheduler_config_, sigmas);
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
  return std::make_unique<VaeDecoder>(arena, autoencoder(), shards, height, width);
}

}  // namespace nostos::zimage
