// Implements the parts that several families have.
#include "families/shared_parts.h"

namespace nostos {

using autoencoder_kl::Autoencoder;

std::unique_ptr<ModelPartOf<qwen3::Encoder>> make_text_encoder(Context& ctx, const FamilyOptions& options,
                                                               const qwen3::Config& config, int64_t max_tokens) {
  const auto walk = [options, config](Context& on, WeightWalk how, const WeightPlacement& placement) {
    // A language model with its head nests the encoder's tensors.
    WeightBuilder builder = weights_of(on, options, "text_encoder", how, placement, {"model.", "embed_tokens.weight"});
    return qwen3::build_weights(config, builder);
  };
  return make_part<qwen3::Encoder>(ctx, "text encoder", walk,
                                   [config, max_tokens](Context& on, qwen3::Weights weights) {
                                     return qwen3::Encoder(on, config, std::move(weights), max_tokens);
                                   });
}

std::unique_ptr<ModelPartOf<Autoencoder>> make_vae(Context& ctx, const FamilyOptions& options,
                                                   const autoencoder_kl::Config& config, bool with_encoder) {
  const auto walk = [options, config, with_encoder](Context& on, WeightWalk how, const WeightPlacement&) {
    WeightBuilder builder = weights_of(on, options, "vae", how);
    return autoencoder_kl::build_weights(config, with_encoder, builder);
  };
  return make_part<Autoencoder>(ctx, "VAE", walk,
                                [config, dtype = options.dtype](Context&, autoencoder_kl::Weights weights) {
                                  return Autoencoder(config, std::move(weights), dtype);
                                });
}

VaeDecoder::VaeDecoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t height, int64_t width)
    : vae_(vae),
      shards_(shards.refined(vae.config().patch)),
      scratch_(vae.take_decode_scratch(arena, shards_, height * vae.config().patch, width * vae.config().patch)) {}

void VaeDecoder::decode(Context& ctx, ConstView latents, View image) const {
  vae_.decode(ctx, shards_, latents, scratch_, image);
}

void VaeDecoder::plan(Context& ctx, ConstView latents, View image) const {
  vae_.plan_decode(ctx, shards_, latents, scratch_, image);
}

VaeEncoder::VaeEncoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t width)
    : vae_(vae),
      packed_(shards),
      shards_(shards.refined(vae.config().patch)),
      moments_(take(arena, DType::f32,
                    {shards_.local().count, width * vae.config().patch, 2 * vae.config().latent_channels})),
      scratch_(vae.take_encode_scratch(arena, shards_, width * vae.config().patch)) {}

void VaeEncoder::encode(Context& ctx, ConstView image, View tokens) const {
  vae_.encode(ctx, shards_, image, scratch_, moments_);
  vae_.pack_means(ctx, moments_, packed_.own_of_whole(tokens));
  packed_.gather(ctx, {tokens});
}

}  // namespace nostos
