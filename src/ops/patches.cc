// Checks and dispatches moves between latents, tokens and images.
#include "ops/patches.h"

#include "base/error.h"
#include "ops/dispatch.h"

namespace nostos::ops {
namespace {

void check_patches(ConstView latents, int64_t patch, ConstView tokens) {
  const Shape& shape = latents.shape();
  check(shape.rank() == 3 && shape[1] % patch == 0 && shape[2] % patch == 0, "a latent divides into patches");
  check(tokens.shape() == Shape({shape[1] / patch * (shape[2] / patch), patch * patch * shape[0]}),
        "one token a patch");
}

}  // namespace

void patchify(Context& ctx, ConstView latents, int64_t patch, View tokens) {
  check_patches(latents, patch, tokens);
  dispatch<patchify>(ctx, latents, patch, tokens);
}

void unpatchify(Context& ctx, ConstView tokens, int64_t patch, View latents) {
  check_patches(latents, patch, tokens);
  dispatch<unpatchify>(ctx, tokens, patch, latents);
}

void latents_to_image(Context& ctx, ConstView latents, float scale, float shift, View image) {
  const Shape& shape = latents.shape();
  check(shape.rank() == 3 && image.shape() == Shape({shape[1], shape[2], shape[0]}),
        "latents_to_image moves channels last");
  dispatch<latents_to_image>(ctx, latents, scale, shift, image);
}

void unpack_latents(Context& ctx, ConstView packed, int64_t patch, const ChannelStatistics& norm, View image) {
  const Shape& shape = packed.shape();
  check(shape.rank() == 3 && shape[0] % (patch * patch) == 0 &&
            image.shape() == Shape({shape[1] * patch, shape[2] * patch, shape[0] / (patch * patch)}),
        "unpack_latents moves channels into the patches that they are of");
  check(norm.mean.elements() == shape[0] && norm.var.elements() == shape[0], "each packed channel has its statistics");
  dispatch<unpack_latents>(ctx, packed, patch, norm, image);
}

void pack_latents(Context& ctx, ConstView image, int64_t patch, const ChannelStatistics& norm, View packed) {
  const Shape& shape = image.shape();
  check(shape.rank() == 3 && shape[0] % patch == 0 && shape[1] % patch == 0 && packed.shape().rank() == 2 &&
            packed.shape()[0] == shape[0] / patch * (shape[1] / patch) && packed.shape()[1] % (patch * patch) == 0 &&
            packed.shape()[1] / (patch * patch) <= shape[2],
        "pack_latents makes a token of each patch");
  check(norm.mean.elements() == packed.shape()[1] && norm.var.elements() == packed.shape()[1],
        "each packed channel has its statistics");
  dispatch<pack_latents>(ctx, image, patch, norm, packed);
}

void sample_posterior(Context& ctx, ConstView moments, ConstView noise, float scale, float shift, View latents) {
  const Shape& shape = latents.shape();
  check(shape.rank() == 3 && moments.shape() == Shape({shape[1], shape[2], 2 * shape[0]}) && noise.shape() == shape,
        "sample_posterior has a mean and a variance of each latent");
  dispatch<sample_posterior>(ctx, moments, noise, scale, shift, latents);
}

void upsample_nearest_2x(Context& ctx, ConstView x, View out) {
  const Shape& shape = x.shape();
  check(shape.rank() == 3 && out.shape() == Shape({2 * shape[0], 2 * shape[1], shape[2]}),
        "upsample doubles height and width");
  dispatch<upsample_nearest_2x>(ctx, x, out);
}

void to_pixels(Context& ctx, ConstView x, View out, View invalid) {
  check(x.elements() == out.elements() && out.dtype() == DType::u8, "to_pixels gives a byte a value");
  check(invalid.elements() == 1 && invalid.dtype() == DType::i32, "to_pixels has one flag");
  dispatch<to_pixels>(ctx, x, out, invalid);
}

void from_pixels(Context& ctx, ConstView x, View out) {
  check(x.elements() == out.elements() && x.dtype() == DType::u8 && out.dtype() == DType::f32,
        "from_pixels gives a number a byte");
  dispatch<from_pixels>(ctx, x, out);
}

}  // namespace nostos::ops
