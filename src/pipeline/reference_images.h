// Owns what a model sees of a reference image: its size, and its pixels. Rank 0 prepares the pixels when it draws;
// everybody else needs the size alone, which resolve() has from here.
#pragma once

#include <string>

#include "families/model_shape.h"
#include "io/image.h"
#include "pipeline/request.h"

namespace nostos {

inline constexpr int64_t kMinReferenceSide = 64;   ///< pixels
inline constexpr int64_t kMaxReferenceAspect = 8;  ///< the longer side over the shorter one

/// What the reference pipeline makes of an image's size (diffusers, Flux2ImageProcessor): an image of more than
/// `limits.reference_pixels` is made smaller in its aspect, each side rounded down; a smaller image is never enlarged.
/// Then each side is cut down to a multiple of `limits.size_multiple`.
/// \param given as the image is shown
/// \param field names the image in messages
/// \return the size that the model is given, which depends on the arguments alone
/// \throws Error invalid_input if a side is below kMinReferenceSide, or the aspect beyond kMaxReferenceAspect
ImageSize prepared_size(ImageSize given, const ModelLimits& limits, const std::string& field);

/// Resamples an image (resample_lanczos()) and crops it around its centre.
/// \return the image of prepared_size(), 8-bit RGB. \throws Error invalid_input as prepared_size()
Image prepare_reference(const Image& image, const ModelLimits& limits, const std::string& field);

}  // namespace nostos
