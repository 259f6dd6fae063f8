// Owns what makes control images of photographs: edges, greys and blurred colours. Depth, poses and the like need
// networks of their own; such images are given as they are.
#pragma once

#include <cstdint>
#include <string_view>

#include "io/grey_image.h"
#include "io/image.h"

namespace nostos {

enum class Preprocessor {
  none,   ///< the image is one already
  canny,  ///< white edges on black: canny()
  gray,   ///< its luma in all three channels: grey_of()
  tile,   ///< its colours without detail: blur_tiles()
};

/// \return the kind named "none", "canny", "gray" or "tile". \throws Error invalid_input for any other name
Preprocessor parse_preprocessor(std::string_view name);
/// \return the name that parse_preprocessor() takes.
std::string_view name(Preprocessor kind);

/// \return the control image, of the same size. \param image not empty
Image preprocess(const Image& image, Preprocessor kind);

/// Finds edges, to the bits of OpenCV's `Canny(image, low, high)`: Sobel filters of 3x3, outside the outermost pixels,
/// magnitude |dx| + |dy|, the largest along one of four directions, and of these what is above `high`, or above `low`
/// and connected with such.
/// \param image not empty
/// \return 255 on edges, else 0
/// Source of the formula: Canny, "A computational approach to edge detection" (1986); the fixed point of directions and
/// the order of comparisons are OpenCV's (imgproc/src/canny.cpp)
GreyImage canny(const GreyImage& image, int32_t low, int32_t high);

/// Takes detail out of an image: the mean of each square of 8x8 pixels, brought back to the size with a Lanczos filter.
/// So the preprocessors that are called "tile" make of a sharp picture what a small one looks like when it is enlarged.
Image blur_tiles(const Image& image);

}  // namespace nostos
