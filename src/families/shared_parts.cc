// Implements the parts that several families have.
#include "families/shared_parts.h"

#include <fmt/ranges.h>

#include <charconv>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "ops/capabilities.h"

namespace nostos {

using autoencoder_kl::Autoencoder;

void tell_of_rounding(std::string_view part, const WeightStorage& loaded) {
  if (loaded.unrounded > 0)
    log_warning(
        "{} weights of the {} keep products as without int8: their outputs do not come in eights, or their "
        "inputs not in sixteens",
        loaded.unrounded, part);
  if (loaded.requantised > 0)
    log_info("{} weights of the {} are stored in another format and were rounded to 8 bits anew", loaded.requantised,
             part);
}

bool rounds_scores(const Context& ctx, const FamilyOptions& options, int64_t head_dim) {
  require(!options.rounds_scores || ops::rounds_attention(ctx.device(), options.dtype, head_dim), ErrorKind::device,
          "--attention-precision int8 wants a CPU, or a Hopper GPU, bfloat16 and heads of 128, and these are heads of "
          "{} in {} on {}: use auto",
          head_dim, name(options.dtype), to_string(ctx.device()));
  return options.rounds_scores;
}

JsonConfig guess_text_encoder_config(const TensorShapes& shapes, const WeightStore& store) {
  qwen3::Constants constants;
  const auto read = [&](const std::string& key, double& value) {
    const std::string* text = store.metadata(key);
    if (text == nullptr) return;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    require(error == std::errc() && end == text->data() + text->size(), ErrorKind::model, "{}: key '{}' is no number",
            store.path().string(), key);
  };
  read("qwen3.rope.freq_base", constants.rope_theta);
  read("qwen3.attention.layer_norm_rms_epsilon", constants.norm_eps);
  return qwen3::guess_config(shapes, constants);
}

std::optional<Tokenizer> find_tokenizer(const FamilyOptions& options, const PartFiles& text_encoder) {
  const std::filesystem::path place = find_tokenizer_place(options, text_encoder);
  return place.empty() ? std::nullopt : std::optional(Tokenizer::load(place));
}

std::filesystem::path find_tokenizer_place(const FamilyOptions& options, const PartFiles& text_encoder) {
  const ModelFiles& files = options.files;
  if (!files.tokenizer.empty()) return files.tokenizer;
  if (Tokenizer::is_there(text_encoder.path())) return text_encoder.path();
  if (!files.folder().empty()) {
    std::filesystem::path folder = files.folder() / "tokenizer";
    return options.synthetic && !std::filesystem::exists(folder) ? std::filesystem::path() : folder;
  }
  std::vector<std::string> places;
  for (const std::filesystem::path& folder : files.usual_tokenizers) {
    if (Tokenizer::is_there(folder)) return folder;
    places.push_back(folder.string());
  }
  fail(ErrorKind::model,
       "no tokenizer: {} has none, nor is one in {}. Give --tokenizer with a folder that has tokenizer.json, or run "
       "scripts/fetch_tokenizer.sh once, which fetches Qwen3's",
       text_encoder.path().string(), fmt::join(places, " or "));
}

std::unique_ptr<ModelPartOf<qwen3::Encoder>> make_text_encoder(Context& ctx, const PartFiles& files,
                                                               const qwen3::Config& config, int64_t max_tokens) {
  const auto walk = [config](WeightBuilder& builder) { return qwen3::build_weights(config, builder); };
  return make_part<qwen3::Encoder>(ctx, files, "text encoder", walk,
                                   [config, max_tokens](Context& on, qwen3::Weights weights) {
                                     return qwen3::Encoder(on, config, std::move(weights), max_tokens);
                                   });
}

std::unique_ptr<ModelPartOf<Autoencoder>> make_vae(Context& ctx, const PartFiles& files,
                                                   const autoencoder_kl::Config& config) {
  const auto walk = [config](WeightBuilder& builder) { return autoencoder_kl::build_weights(config, builder); };
  return make_part<Autoencoder>(ctx, files, "VAE", walk,
                                [config, dtype = files.dtype()](Context&, autoencoder_kl::Weights weights) {
                                  return Autoencoder(config, std::move(weights), dtype);
                                });
}

VaeDecoder::VaeDecoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t height, int64_t width,
                       int64_t stripe_bytes)
    : vae_(vae),
      shards_(shards.refined(vae.config().patch)),
      scratch_(vae.take_decode_scratch(arena, shards_, height * vae.config().patch, width * vae.config().patch,
                                       stripe_bytes)) {}

void VaeDecoder::decode(Context& ctx, ConstView latents, View image) const {
  vae_.decode(ctx, shards_, latents, scratch_, image);
}

void VaeDecoder::plan(Context& ctx, ConstView latents, View image) const {
  vae_.plan_decode(ctx, shards_, latents, scratch_, image);
}

PackedMeanEncoder::PackedMeanEncoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t width,
                                     int64_t stripe_bytes)
    : vae_(vae),
      packed_(shards),
      shards_(shards.refined(vae.config().patch)),
      moments_(take(arena, DType::f32,
                    {shards_.local().count, width * vae.config().patch, 2 * vae.config().latent_channels})),
      scratch_(vae.take_encode_scratch(arena, shards_, width * vae.config().patch, stripe_bytes)) {}

void PackedMeanEncoder::encode(Context& ctx, ConstView image, View tokens) const {
  vae_.encode(ctx, shards_, image, scratch_, moments_);
  vae_.pack_means(ctx, moments_, packed_.own_of_whole(tokens));
  packed_.gather(ctx, {tokens});
}

MomentsEncoder::MomentsEncoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t width,
                               int64_t stripe_bytes)
    : vae_(vae), shards_(shards), scratch_(vae.take_encode_scratch(arena, shards_, width, stripe_bytes)) {}

void MomentsEncoder::encode(Context& ctx, ConstView image, View moments) const {
  vae_.encode(ctx, shards_, image, scratch_, shards_.own_of_whole(moments));
  shards_.gather(ctx, {moments});
}

}  // namespace nostos
