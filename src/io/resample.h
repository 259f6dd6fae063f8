// Owns changes of an image's size: resampling, and cropping. What is given as a reference to a model goes through it.
#pragma once

#include <cstdint>

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

/// \return the part of `image` around its centre, its first column (width - size.width) / 2 rounded down, its first row
/// likewise. \param size at most the image's
Image crop_centre(const Image& image, ImageSize size);

}  // namespace nostos
