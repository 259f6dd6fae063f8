// Owns changes of an image's size: resampling, and cropping. What is given as a reference to a model goes through it.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/grey_image.h"
#include "io/image.h"

namespace nostos {

/// Resamples an image with a Lanczos filter of three lobes, to the bits of Pillow 13's `Image.resize(size, LANCZOS)`:
/// along rows, then along columns, each pass with weights in fixed point of 22 bits and a result of 8 bits. A pass that
/// changes nothing is left out. Columns go first where the height loses more than twice as many pixels as the width;
/// earlier versions of Pillow always begin with the rows, which rounds some pixels of such images otherwise.
/// \param image 8-bit RGB, not empty \param size of the result, each side at least 1
/// Source of the formula: the filter sinc(x) sinc(x / 3), |x| < 3, widened by in / out where the image shrinks and
/// sampled at the pixels' centres; the fixed point is Pillow's (libImaging, `ImagingResample`)
Image resample_lanczos(const Image& image, ImageSize size);
/// The same of one channel.
GreyImage resample_lanczos(const GreyImage& image, ImageSize size);

/// Takes of each place of the result the pixel at its centre, to the bits of Pillow 13's `Image.resize(size, NEAREST)`:
/// x goes to the pixel (x + 0.5) * in / out rounded down, the product being summed up in steps of in / out.
/// \param image not empty \param size of the result, each side at least 1
Image resample_nearest(const Image& image, ImageSize size);
GreyImage resample_nearest(const GreyImage& image, ImageSize size);

/// \return the part of `image` around its centre, its first column (width - size.width) / 2 rounded down, its first row
/// likewise. \param size at most the image's
Image crop_centre(const Image& image, ImageSize size);

enum class ImageFit {
  crop,     ///< covers the size, keeps the ratio of its sides, cuts both ends
  pad,      ///< lies within the size, keeps the ratio of its sides, its edges go on to both ends
  stretch,  ///< is resampled to the size, whatever its ratio
};

/// \return the kind named "crop", "pad" or "stretch". \throws Error invalid_input for any other name
ImageFit parse_image_fit(std::string_view name);
/// \return the name that parse_image_fit() takes.
std::string_view name(ImageFit fit);

/// \return the size to which fit() resamples the picture, before it cuts or pads: sides round down, but not to 0.
ImageSize inner_size(ImageSize picture, ImageSize size, ImageFit kind);

/// Fits a picture into a size with resample_lanczos(). Where sides are even it has the bits of diffusers 0.42.1's
/// VaeImageProcessor, whose modes are called "crop", "fill" and "default"; the first two are WebUIs' "crop and resize"
/// and "resize and fill". What `pad` adds is one line, 9/8 of the resampled picture's outermost one less 1/8 of its
/// neighbour: Pillow's bicubic filter at the very edge. The middle lies (size / 2) - (inner / 2) from the top or left,
/// each rounded down. Of odd sizes the reference may leave the last line black.
/// \param picture not empty \param size each side at least 1
Image fit(const Image& picture, ImageSize size, ImageFit kind);
GreyImage fit(const GreyImage& picture, ImageSize size, ImageFit kind);

}  // namespace nostos
