// Reads a model folder and loads its parts.
#include "pipeline/model_parts.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/log.h"
#include "device/cuda/runtime.h"
#include "io/json_config.h"
#include "models/weight_builder.h"
#include "pipeline/model_shape.h"

namespace nostos {
namespace {

/// What a process takes of a GPU beside what it asks for: the driver's context, the kernels of CUDA's libraries, and
/// rounding. Measured on an H200 with the reserve used up: 0.95 to 1.07 GiB, more with more weights on the device.
constexpr size_t kContextBytes = size_t{1152} << 20;
/// More than the scratch memory and reserve of any picture of up to 2048x2048.
constexpr size_t kLargestScratchBytes = size_t{8} << 30;

/// \return what must stay free beside a drawing's planned scratch memory: for the trials of products, which take a
/// weight and rows of their own in the first drawing of a size, and for the libraries' workspaces.
size_t reserve_bytes(size_t largest_block, size_t scratch_bytes) {
  constexpr size_t kWorkspaceBytes = size_t{256} << 20;
  return kWorkspaceBytes + largest_block + scratch_bytes / 4;
}

constexpr std::array<const char*, 3> kPartsWithWeights{"text_encoder", "transformer", "vae"};

/// Looks at the classes that the model's index names. Those of other parts, which nothing is read of, do not matter.
/// \throws Error model
void check_classes(const std::filesystem::path& index) {
  // The pipelines from pictures have the same parts.
  constexpr std::array<std::string_view, 3> kPipelines{"ZImagePipeline", "ZImageImg2ImgPipeline",
                                                       "ZImageInpaintPipeline"};
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kParts{
      {{"transformer", "ZImageTransformer2DModel"},
       {"vae", "AutoencoderKL"},
       {"scheduler", "FlowMatchEulerDiscreteScheduler"}}};
  const JsonConfig json = JsonConfig::load(index);
  json.class_name(kPipelines);
  for (const auto& [part, wanted] : kParts) {
    if (!json.has(part)) continue;
    const std::vector<std::string> names = json.strings(part);
    require(names.size() == 2 && names[1] == wanted, ErrorKind::model,
            "{}: field '{}' is [\"{}\"], must be [\"diffusers\", \"{}\"]", json.name(), part,
            fmt::join(names, "\", \""), wanted);
  }
}

/// \throws Error model unless a part of the model has the variant: a misspelt one would be drawn with plain weights.
void require_variant(const std::filesystem::path& folder, const std::string& variant) {
  for (const char* part : kPartsWithWeights)
    if (WeightStore::open(folder / part, variant).variant() == variant) return;
  fail(ErrorKind::model, "no part of '{}' has weights of the variant '{}'", folder.string(), variant);
}

}  // namespace

ModelParts::ModelParts(Context& ctx, const std::filesystem::path& folder, bool synthetic, DType dtype,
                       const MemoryOptions& memory, const std::string& variant)
    : folder_(folder), variant_(variant), synthetic_(synthetic), dtype_(dtype), memory_(memory) {
  check_classes(folder / "model_index.json");
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
  if (!synthetic && !variant.empty()) require_variant(folder, variant);
  // A part that does not fit is found now, not when its stage comes.
  encoder_sizes_ = encoder_weights(ctx, StoreSource::Mode::check_only).storage.sizes;
  transformer_sizes_ = transformer_weights(ctx, StoreSource::Mode::check_only).storage.sizes;
  autoencoder_weights(ctx, StoreSource::Mode::check_only);
  plan_ = {place_part(encoder_sizes_, false, 0), place_part(transformer_sizes_, false, 0)};
  one_at_a_time_ = wants_one_at_a_time(ctx);
}

bool ModelParts::wants_one_at_a_time(Context& ctx) const {
  if (memory_.mode == MemoryMode::resident) return false;
  if (ctx.device().kind == DeviceKind::cpu) return memory_.one_drawing || memory_.mode == MemoryMode::offload;
  return memory_.one_drawing && !fits_any_drawing(ctx);
}

bool ModelParts::fits_any_drawing(Context& ctx) const {
  const size_t weights = plan_.encoder.device_bytes + plan_.transformer.device_bytes;
  return memory_.mode == MemoryMode::automatic && weights + kLargestScratchBytes <= available_bytes(ctx);
}

PromptTokens ModelParts::tokenize(std::string_view prompt, int64_t max_tokens) const {
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

void ModelParts::load_ahead(Context& ctx, bool with_encoder) {
  if (one_at_a_time_) return;
  autoencoder(ctx);
  if (ctx.device().kind == DeviceKind::cpu || memory_.mode == MemoryMode::resident || fits_any_drawing(ctx))
    load(ctx, with_encoder);
}

void ModelParts::load(Context& ctx, bool with_encoder) {
  if (with_encoder) encoder(ctx);
  transformer(ctx);
}

size_t ModelParts::available_bytes(Context& ctx) const {
  const size_t weights = weight_bytes();
  size_t available = cuda::free_bytes(ctx.device().index) + weights;
  std::optional<size_t> limit = memory_.limit_bytes;
  if (!limit && memory_.mode == MemoryMode::offload) limit = MemoryOptions::kOffloadLimitBytes;
  if (limit) available = std::min(available, *limit - std::min(*limit, kContextBytes));
  const size_t kept = autoencoder_ ? autoencoder_->weights().storage.bytes : 0;
  return available - std::min(available, kept);
}

void ModelParts::make_room(Context& ctx, size_t scratch_bytes, bool alone) {
  if (ctx.device().kind == DeviceKind::cpu) return;
  const MemoryNeeds needs{ctx.device(),       encoder_sizes_,
                          transformer_sizes_, one_at_a_time_,
                          scratch_bytes,      reserve_bytes(transformer_sizes_.largest_block(), scratch_bytes)};
  const size_t available = available_bytes(ctx);
  MemoryPlan plan = plan_memory(memory_.mode, needs, available);
  log_message(plan.streams() ? LogLevel::info : LogLevel::debug, describe(plan, needs, available));
  if (plan == plan_) return;
  check(alone, "ranks that share a model have all of its weights resident");
  release_encoder();
  release_transformer();
  plan_ = std::move(plan);
}

WeightBuilder ModelParts::builder(Context& ctx, const char* part, StoreSource::Mode mode,
                                  const WeightPlacement& placement) const {
  std::shared_ptr<WeightSource> source;
  if (!synthetic_) {
    WeightStore store = WeightStore::open(folder_ / part, variant_);
    // A language model with its head nests the encoder's tensors.
    const char* prefix = store.info("model.embed_tokens.weight") != nullptr ? "model." : "";
    source = std::make_shared<StoreSource>(std::move(store), prefix, mode);
  } else if (mode == StoreSource::Mode::check_only) {
    source = std::make_shared<ListingSource>();
  } else {
    source = std::make_shared<SyntheticSource>(ctx);
  }
  return WeightBuilder(ctx, std::move(source), dtype_, placement);
}

qwen3::Weights ModelParts::encoder_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "text_encoder", mode, plan_.encoder.placement);
  return qwen3::build_weights(encoder_config_, made);
}

zimage::Weights ModelParts::transformer_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "transformer", mode, plan_.transformer.placement);
  return zimage::build_weights(transformer_config_, made);
}

autoencoder_kl::Weights ModelParts::autoencoder_weights(Context& ctx, StoreSource::Mode mode) const {
  WeightBuilder made = builder(ctx, "vae", mode);
  return autoencoder_kl::build_weights(vae_config_, false, made);
}

const qwen3::Encoder& ModelParts::encoder(Context& ctx) {
  if (!encoder_)
    encoder_ = std::make_unique<qwen3::Encoder>(ctx, encoder_config_, encoder_weights(ctx, StoreSource::Mode::load),
                                                limits_.max_sequence_length);
  return *encoder_;
}

const zimage::Transformer& ModelParts::transformer(Context& ctx) {
  if (!transformer_) {
    transformer_ = std::make_unique<zimage::Transformer>(ctx, transformer_config_,
                                                         transformer_weights(ctx, StoreSource::Mode::load), dtype_,
                                                         limits_.max_sequence_length);
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

size_t ModelParts::streamed_bytes() const {
  return (encoder_ ? encoder_->weights().storage.host_bytes : 0) +
         (transformer_ ? transformer_->weights().storage.host_bytes : 0);
}

}  // namespace nostos
