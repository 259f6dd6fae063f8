// Implements the ways between images and packed latents.
#include "families/flux2_klein/vae.h"

namespace nostos::flux2_klein {

using autoencoder_kl::Autoencoder;

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

VaeEncoder::VaeEncoder(Arena& arena, const Autoencoder& vae, const nn::RowShards& shards, int64_t, int64_t width)
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

}  // namespace nostos::flux2_klein
