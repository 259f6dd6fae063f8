// Reads a model folder and loads its parts.
#include "pipeline/model_parts.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"
#include "io/json_config.h"
#include "models/weight_builder.h"
#include "pipeline/model_shape.h"

namespace nostos {
namespace {

constexpr int64_t kMaxPromptTokens = 512;  // the reference pipeline's max_sequence_length

void check_class(const std::filesystem::path& index) {
  constexpr std::array<std::string_view, 1> kClasses{"ZImagePipeline"};
  JsonConfig::load(index).class_name(kClasses);
}

}  // namespace

ModelParts::ModelParts(Context& ctx, const std::filesystem::path& folder, bool synthetic, DType dtype)
    : folder_(folder), synthetic_(synthetic), dtype_(dtype) {
  check_class(folder / "model_index.json");
  transformer_config_ = zimage::load_config(folder / "transformer" / "config.json");
  encoder_config_ = qwen3::load_config(folder / "text_encoder" / "config.json");
  vae_config_ = autoencoder_kl::load_config(folder / "vae" / "config.json");
  scheduler_config_ = load_scheduler_config(folder / "scheduler" / "scheduler_config.json");
  require(transformer_config_.caption_width == encoder_config_.hidden, ErrorKind::model,
          "{}: the transformer takes captions of width {} (cap_feat_dim), the text encoder gives {} (hidden_size)",
          folder.string(), transformer_config_.caption_width, encoder_config_.hidden);
  require(transformer_config_.in_channels == vae_config_.latent_channels, ErrorKind::model,
          "{}: the transformer takes {} latent channels (in_channels), the VAE gives {} (latent_channels)",
          folder.string(), transformer_config_.in_channels, vae_config_.latent_channels);
  limits_ = read_limits(folder, transformer_config_, vae_config_);
  if (!synthetic || std::filesystem::exists(folder / "tokenizer")) tokenizer_ = Tokenizer::load(folder / "tokenizer");
  if (synthetic) return;
  // A part that does not fit is found now, not when its stage comes.
  encoder_weights(ctx, StoreSource::Mode::check_only);
  transformer_weights(ctx, StoreSource::Mode::check_only);
  autoencoder_weights(ctx, StoreSource::Mode::check_only);
}

PromptTokens ModelParts::tokenize(std::string_view prompt) const {
  // The padded caption takes positions 1 .. Lp and the image plane Lp + 1: the first rotary axis must reach that far.
  const int64_t rotary_tokens =
      (transformer_config_.axes_lens[0] - 2) / zimage::kTokenMultiple * zimage::kTokenMultiple;
  const int64_t max_tokens = std::min(kMaxPromptTokens, rotary_tokens);
  require(max_tokens > 0, ErrorKind::model, "{}: axes_lens[0] is {}, too short for any caption (34 at least)",
          folder_.string(), transformer_config_.axes_lens[0]);
  if (tokenizer_) return tokenize_prompt(*tokenizer_, prompt, max_tokens);
  PromptTokens tokens{{}, false};
  for (const char byte : chat_prompt(prompt)) {
    if (static_cast<int64_t>(tokens.ids.size()) == max_tokens) {
      tokens.truncated = true;
      break;
    }
    tokens.ids.push_back(static_cast<int32_t>(static_cast<unsigned char>(byte) % encoder_config_.vocabulary));
  }
  return tokens;
}

WeightBuilder ModelParts::builder(Context& ctx, const char* part, const char* prefix, StoreSource::Mode mode) const {
  std::shared_ptr<WeightSource> source;
  if (synthetic_)
    source = std::make_shared<SyntheticSource>(ctx);
  else
    source = std::make_shared<StoreSource>(WeightStore::open(folder_ / part), prefix, mode);
  return WeightBuilder(ctx, std::move(source), dtype_);
}

qwen3::Weights ModelParts::encoder_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "text_encoder", encoder_config_.is_causal_lm ? "model." : "", mode);
  return qwen3::build_weights(encoder_config_, made);
}

zimage::Weights ModelParts::transformer_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "transformer", "", mode);
  return zimage::build_weights(transformer_config_, made);
}

autoencoder_kl::Weights ModelParts::autoencoder_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "vae", "", mode);
  return autoencoder_kl::build_weights(vae_config_, false, made);
}

const qwen3::Encoder& ModelParts::encoder(Context& ctx) {
  if (!encoder_)
    encoder_ = std::make_unique<qwen3::Encoder>(encoder_config_, encoder_weights(ctx, StoreSource::Mode::load), dtype_);
  return *encoder_;
}

const zimage::Transformer& ModelParts::transformer(Context& ctx) {
  if (!transformer_) {
    transformer_ = std::make_unique<zimage::Transformer>(transformer_config_,
                                                         transformer_weights(ctx, StoreSource::Mode::load), dtype_);
  }
  return *transformer_;
}

const autoencoder_kl::Autoencoder& ModelParts::autoencoder(Context& ctx) {
  if (!autoencoder_) {
    autoencoder_ = std::make_unique<autoencoder_kl::Autoencoder>(
        vae_config_, autoencoder_weights(ctx, StoreSource::Mode::load), dtype_);
  }
  return *autoencoder_;
}

size_t ModelParts::weight_bytes() const {
  return (encoder_ ? encoder_->weights().storage.bytes : 0) +
         (transformer_ ? transformer_->weights().storage.bytes : 0) +
         (autoencoder_ ? autoencoder_->weights().storage.bytes : 0);
}

}  // namespace nostos
