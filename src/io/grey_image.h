// Owns pictures of one channel, such as masks: what makes them of colours, thresholds and blur.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/image.h"

namespace nostos {

/// 8-bit grey pixels, row-major.
struct GreyImage {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> grey;  ///< [height, width]

  friend bool operator==(const GreyImage&, const GreyImage&) = default;
};

/// \return the luma of each pixel by ITU-R BT.601, (19595 R + 38470 G + 7471 B + 32768) / 65536 rounded down: what
/// Pillow's `convert("L")` gives. Grey stays as it is.
GreyImage grey_of(const Image& image);

/// \return 255 where the mask is at least half, 128, and 0 elsewhere: what diffusers' mask processor makes 1 and 0.
GreyImage binary_of(const GreyImage& mask);

/// A mask as a file has it: white is what is drawn anew.
struct DecodedMask {
  GreyImage grey{};
  bool is_by_transparency = false;  ///< whether any pixel of the file is transparent, even in part
};

/// Decodes a picture as decode_image() does, but for transparency: where any pixel has some, the mask is white where
/// alpha is below half, 128, and black elsewhere, whatever the colours are, as OpenAI's clients send masks. Else it is
/// grey_of() the picture. What the first frame of an animated WebP leaves free is white.
/// \throws Error invalid_input as decode_image()
DecodedMask decode_mask(std::span<const uint8_t> bytes, const ImageLimits& limits = {});

/// Blurs an image, to the bits of Pillow 13's `ImageFilter.GaussianBlur(radius)`: three box filters along rows, then
/// three along columns, each with a result of 8 bits; pixels outside are those of the edge. This is the blur of
/// diffusers (`VaeImageProcessor.blur`). A1111's "mask blur" is another: OpenCV's Gaussian filter of
/// 2 int(2.5 radius + 0.5) + 1 pixels, whose standard deviation is the radius too.
/// \param radius standard deviation in pixels, 0 to 1000; 0 changes nothing
/// Source of the formula: Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"
/// (2011): the box of a real length whose variance is a third of the Gaussian's
GreyImage gaussian_blur(const GreyImage& image, float radius);

/// Takes of each place of the result the pixel at its top left, to the bits of PyTorch's
/// `interpolate(size, mode="nearest")`: x goes to the pixel x * in / out rounded down, in float32. So a mask comes to
/// Z-Image's latents, each of which has the pixel at the top left of its square.
/// \param image not empty \param size of the result, each side at least 1
GreyImage interpolate_nearest(const GreyImage& image, ImageSize size);

/// Takes of each place of the result the mean of its four central pixels, 1 for white: PyTorch's
/// `interpolate(size, mode="bilinear")` where each side is an even multiple of the result's. So a mask comes to
/// FLUX.2's tokens; of a binary mask the values are 0, 0.25, 0.5, 0.75 and 1.
/// \param size its sides divide the image's, with even quotients
/// \return [size.height, size.width], 0 to 1
std::vector<float> interpolate_bilinear(const GreyImage& image, ImageSize size);

}  // namespace nostos
