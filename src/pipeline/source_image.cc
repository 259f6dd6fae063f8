// Implements the preparation of the image that a drawing begins with, and of its mask.
#include "pipeline/source_image.h"

#include <algorithm>
#include <cstring>

#include "io/preprocess.h"
#include "io/resample.h"

namespace nostos {
namespace {

/// \return the image in the middle of a larger one, which its outermost pixels fill.
Image extend_edges(const Image& image, ImageSize size) {
  if (image.height == size.height && image.width == size.width) return image;
  const int64_t top = (size.height - image.height) / 2, left = (size.width - image.width) / 2;
  Image made{size.height, size.width, std::vector<uint8_t>(static_cast<size_t>(size.height * size.width * 3))};
  for (int64_t y = 0; y < size.height; ++y) {
    const int64_t row = std::clamp<int64_t>(y - top, 0, image.height - 1);
    for (int64_t x = 0; x < size.width; ++x) {
      const int64_t column = std::clamp<int64_t>(x - left, 0, image.width - 1);
      std::memcpy(&made.rgb[static_cast<size_t>((y * size.width + x) * 3)],
                  &image.rgb[static_cast<size_t>((row * image.width + column) * 3)], 3);
    }
  }
  return made;
}

/// \return the image, or its mask, at the drawn size.
Image at_drawn_size(const Image& image, const ResolvedRequest& resolved, ImageFit fit_kind) {
  const ImageSize asked{*resolved.request.height, *resolved.request.width};
  return extend_edges(fit(image, asked, fit_kind), {resolved.drawn_height, resolved.drawn_width});
}

/// \return how an image of a request comes to the asked size.
ImageFit fit_of(ImageSize given, const ResolvedRequest& resolved, const ModelLimits& limits) {
  const GenerationRequest& r = resolved.request;
  const int64_t multiple = limits.size_multiple;
  const auto is_cut_down = [&](int64_t given, int64_t asked) { return given / multiple * multiple == asked; };
  return is_cut_down(given.height, *r.height) && is_cut_down(given.width, *r.width) ? ImageFit::stretch : r.image_fit;
}

}  // namespace

Image prepare_source(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits) {
  return at_drawn_size(image, resolved, fit_of({image.height, image.width}, resolved, limits));
}

Image prepare_control(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits) {
  const ImageFit kind = fit_of({image.height, image.width}, resolved, limits);
  return preprocess(at_drawn_size(image, resolved, kind), resolved.request.control->preprocessor);
}

GreyImage prepare_hard_mask(const Image& mask, const ResolvedRequest& resolved, const ModelLimits& limits) {
  const ImageSize first = resolved.request.images.front().size;
  const bool is_of_image = first == ImageSize{mask.height, mask.width};
  const ImageFit kind = is_of_image ? fit_of(first, resolved, limits) : ImageFit::stretch;
  return binary_of(grey_of(at_drawn_size(mask, resolved, kind)));
}

std::vector<float> prepare_mask(const Image& mask, const ResolvedRequest& resolved, const ModelShape& model) {
  const GreyImage white =
      gaussian_blur(prepare_hard_mask(mask, resolved, model.limits), static_cast<float>(resolved.request.mask->blur));
  const ImageSize latents{white.height / model.limits.pixels_per_latent, white.width / model.limits.pixels_per_latent};
  if (model.mask_scaling == MaskScaling::bilinear) return interpolate_bilinear(white, latents);
  std::vector<float> values;
  for (const uint8_t value : interpolate_nearest(white, latents).grey)
    values.push_back(static_cast<float>(value) / 255);
  return values;
}

}  // namespace nostos
