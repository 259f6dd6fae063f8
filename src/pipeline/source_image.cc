// Implements the preparation of the image that a drawing begins with, and of its mask.
#include "pipeline/source_image.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/resample.h"

namespace nostos {
namespace {

ImageSize size_of(const Image& image) { return {image.height, image.width}; }

/// \return the size scaled in its aspect so that it covers, or else fits into, `size`; on one side it is that size.
ImageSize scaled(ImageSize given, ImageSize size, bool covers) {
  const double by_height = static_cast<double>(size.height) / static_cast<double>(given.height),
               by_width = static_cast<double>(size.width) / static_cast<double>(given.width);
  const double by = covers ? std::max(by_height, by_width) : std::min(by_height, by_width);
  const auto side = [&](int64_t pixels, double own, int64_t whole) {
    const auto made = own == by ? whole : std::llround(static_cast<double>(pixels) * by);
    return covers ? std::max<int64_t>(made, whole) : std::clamp<int64_t>(made, 1, whole);
  };
  return {side(given.height, by_height, size.height), side(given.width, by_width, size.width)};
}

/// \return the image in the middle of a larger one, which its outermost pixels fill.
Image extend_edges(const Image& image, ImageSize size) {
  if (size_of(image) == size) return image;
  const int64_t top = (size.height - image.height) / 2, left = (size.width - image.width) / 2;
  Image made{size.height, size.width, std::vector<uint8_t>(static_cast<size_t>(size.height * size.width * 3))};
  for (int64_t y = 0; y < size.height; ++y) {
    const int64_t from = std::clamp<int64_t>(y - top, 0, image.height - 1);
    for (int64_t x = 0; x < size.width; ++x) {
      const int64_t column = std::clamp<int64_t>(x - left, 0, image.width - 1);
      std::memcpy(&made.rgb[static_cast<size_t>((y * size.width + x) * 3)],
                  &image.rgb[static_cast<size_t>((from * image.width + column) * 3)], 3);
    }
  }
  return made;
}

Image fit_image(const Image& image, ImageSize size, ImageFit fit) {
  switch (fit) {
    case ImageFit::crop:
      return crop_centre(resample_lanczos(image, scaled(size_of(image), size, true)), size);
    case ImageFit::pad:
      return extend_edges(resample_lanczos(image, scaled(size_of(image), size, false)), size);
    case ImageFit::stretch:
      break;
  }
  return resample_lanczos(image, size);
}

/// \return an image, or its mask, at the drawn size.
Image at_drawn_size(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits) {
  const ImageSize asked{*resolved.request.height, *resolved.request.width};
  const int64_t multiple = limits.size_multiple;
  const auto is_cut = [&](int64_t given, int64_t side) {
    return side % multiple == 0 && given / multiple * multiple == side;
  };
  const bool is_cut_down = is_cut(image.height, asked.height) && is_cut(image.width, asked.width);
  const Image fitted = fit_image(image, asked, is_cut_down ? ImageFit::stretch : resolved.request.image_fit);
  return extend_edges(fitted, {resolved.drawn_height, resolved.drawn_width});
}

/// A mask's values, [height, width].
struct Values {
  int64_t height, width;
  std::vector<float> of;

  float at(int64_t y, int64_t x) const {
    return of[static_cast<size_t>(std::clamp<int64_t>(y, 0, height - 1) * width +
                                  std::clamp<int64_t>(x, 0, width - 1))];
  }
};

/// Pillow's convert("L"), then 1 from 128 on.
Values binarised(const Image& image) {
  Values made{image.height, image.width, {}};
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    const uint32_t grey =
        (image.rgb[i] * 19595u + image.rgb[i + 1] * 38470u + image.rgb[i + 2] * 7471u + 0x8000u) >> 16;
    made.of.push_back(grey >= 128 ? 1.f : 0.f);
  }
  return made;
}

/// A Gaussian blur of the standard deviation `radius`, to three of them on either side; beyond its edges the mask goes
/// on as at the edge.
Values blurred(const Values& mask, double radius) {
  if (radius <= 0) return mask;
  const auto reach = static_cast<int64_t>(std::ceil(3 * radius));
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = -reach; i <= reach; ++i) {
    weights.push_back(std::exp(-static_cast<double>(i * i) / (2 * radius * radius)));
    sum += weights.back();
  }
  const auto pass = [&](const Values& from, int64_t down, int64_t right) {
    Values to{from.height, from.width, {}};
    for (int64_t y = 0; y < from.height; ++y) {
      for (int64_t x = 0; x < from.width; ++x) {
        double value = 0;
        for (int64_t i = -reach; i <= reach; ++i)
          value += weights[static_cast<size_t>(i + reach)] * static_cast<double>(from.at(y + i * down, x + i * right));
        to.of.push_back(static_cast<float>(value / sum));
      }
    }
    return to;
  };
  return pass(pass(mask, 0, 1), 1, 0);
}

}  // namespace

Image prepare_source(const Image& image, const ResolvedRequest& resolved, const ModelLimits& limits) {
  return at_drawn_size(image, resolved, limits);
}

std::vector<float> prepare_mask(const Image& mask, const ResolvedRequest& resolved, const ModelShape& model) {
  const Values values = blurred(binarised(at_drawn_size(mask, resolved, model.limits)), resolved.request.mask->blur);
  const int64_t side = model.limits.pixels_per_latent;
  std::vector<float> made;
  for (int64_t y = 0; y < values.height; y += side) {
    for (int64_t x = 0; x < values.width; x += side) {
      if (model.mask_scaling == MaskScaling::nearest) {
        made.push_back(values.at(y, x));
        continue;
      }
      const int64_t below = y + side / 2, right = x + side / 2;  // of the latent's centre
      made.push_back((values.at(below - 1, right - 1) + values.at(below - 1, right) + values.at(below, right - 1) +
                      values.at(below, right)) /
                     4);
    }
  }
  return made;
}

}  // namespace nostos
