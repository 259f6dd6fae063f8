// Owns moves between channel-first latents, token rows and channels-last images.
#pragma once

#include <cstdint>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Latents f32 [channels, height, width] to tokens f32 [height/patch * width/patch, patch * patch * channels],
/// row-major over the
/// token grid, channels innermost: "c (h ph) (w pw) -> (h w) (ph pw c)".
void patchify(Context& ctx, ConstView latents, int64_t patch, View tokens);

/// The inverse of patchify.
void unpatchify(Context& ctx, ConstView tokens, int64_t patch, View latents);

/// Latents f32 [channels, height, width] to f32 or bf16 [height, width, channels]: out = x / scale + shift.
void latents_to_image(Context& ctx, ConstView latents, float scale, float shift, View image);

/// How each channel of packed latents is normalised, as batch norm does it: (x - mean) / sqrt(var + eps).
struct ChannelStatistics {
  ConstView mean, var;  ///< f32 [channels of packed latents]
  float eps = 0;
};

/// Packed latents f32 [channels * patch * patch, height, width] to f32 or bf16 [height * patch, width * patch,
/// channels], "(c ph pw) h w -> (h ph) (w pw) c": out = x * sqrt(var + eps) + mean.
/// Source: diffusers pipeline_flux2_klein.py, _unpatchify_latents().
void unpack_latents(Context& ctx, ConstView packed, int64_t patch, const ChannelStatistics& norm, View image);

/// The inverse, of the first channels of an image's pixels: packed = (x - mean) / sqrt(var + eps).
/// \param image f32 [height * patch, width * patch, channels or more]. \param packed f32 [height * width,
/// channels * patch * patch]: tokens, row-major over the grid
void pack_latents(Context& ctx, ConstView image, int64_t patch, const ChannelStatistics& norm, View packed);

/// latents f32 [channels, height, width] = ((mean + exp(log variance / 2) * noise) - shift) * scale, drawn from what a
/// VAE's encoder says of an image. \param moments f32 [height, width, 2 * channels]: the means, then the logarithms of
/// the variances, which are kept within -30 and 20. \param noise f32, as latents, which it may be
/// Source: diffusers vae.py, DiagonalGaussianDistribution, and pipeline_z_image_img2img.py.
void sample_posterior(Context& ctx, ConstView moments, ConstView noise, float scale, float shift, View latents);

/// x [height, width, channels] to out [2 * height, 2 * width, channels] by repetition; converts f32 or product_dtype()
/// to f32 or bf16.
void upsample_nearest_2x(Context& ctx, ConstView x, View out);

/// 8-bit picture: round-half-even of 255 * clamp(x / 2 + 0.5, 0, 1), and 0 for NaN. \param x f32 or product_dtype(),
/// \param out u8, same number of elements. \param invalid i32 [1], becomes 1 if a value is NaN or infinite
void to_pixels(Context& ctx, ConstView x, View out, View invalid);

/// What a VAE is given of an 8-bit picture: out = 2 * (x / 255) - 1, each of the three operations rounded to f32.
/// \param x u8. \param out f32, same number of elements
/// Source: diffusers image_processor.py, pil_to_numpy() and normalize().
void from_pixels(Context& ctx, ConstView x, View out);

}  // namespace nostos::ops
