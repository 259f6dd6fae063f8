// Implements the preparation of reference images.
#include "pipeline/reference_images.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "io/resample.h"

namespace nostos {
namespace {

/// \return the size to which an image is resampled before it is cropped.
ImageSize resampled_size(ImageSize given, const ModelLimits& limits) {
  // In float64, as the reference does: any image that is decoded has fewer than 2^53 pixels.
  const double pixels = static_cast<double>(given.height) * static_cast<double>(given.width);
  if (pixels <= static_cast<double>(limits.reference_pixels)) return given;
  const double scale = std::sqrt(static_cast<double>(limits.reference_pixels) / pixels);
  return {static_cast<int64_t>(static_cast<double>(given.height) * scale),
          static_cast<int64_t>(static_cast<double>(given.width) * scale)};
}

}  // namespace

ImageSize prepared_size(ImageSize given, const ModelLimits& limits, const std::string& field) {
  const auto [shorter, longer] = std::minmax(given.height, given.width);
  require(shorter >= kMinReferenceSide, ErrorKind::invalid_input,
          "{} is {}x{} pixels: a reference picture has at least {} a side", field, given.width, given.height,
          kMinReferenceSide);
  require(longer / kMaxReferenceAspect < shorter || longer == shorter * kMaxReferenceAspect, ErrorKind::invalid_input,
          "{} is {}x{} pixels: a reference picture is at most {} times as long as it is wide", field, given.width,
          given.height, kMaxReferenceAspect);
  const ImageSize resampled = resampled_size(given, limits);
  const auto floored = [&](int64_t side) { return side / limits.size_multiple * limits.size_multiple; };
  const ImageSize prepared{floored(resampled.height), floored(resampled.width)};
  require(prepared.height > 0 && prepared.width > 0, ErrorKind::invalid_input,
          "{} is {}x{} pixels, of which nothing is left at this model's multiples of {} pixels", field, given.width,
          given.height, limits.size_multiple);
  return prepared;
}

Image prepare_reference(const Image& image, const ModelLimits& limits, const std::string& field) {
  const ImageSize given{image.height, image.width};
  const ImageSize prepared = prepared_size(given, limits, field);
  return crop_centre(resample_lanczos(image, resampled_size(given, limits)), prepared);
}

}  // namespace nostos
