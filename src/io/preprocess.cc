// Implements the making of control images.
#include "io/preprocess.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/resample.h"

namespace nostos {
namespace {

constexpr std::array<std::pair<std::string_view, Preprocessor>, 4> kNames{{{"none", Preprocessor::none},
                                                                           {"canny", Preprocessor::canny},
                                                                           {"gray", Preprocessor::gray},
                                                                           {"tile", Preprocessor::tile}}};
// Of OpenCV's and A1111's users, and of VideoX-Fun's nodes.
constexpr int32_t kCannyLow = 100, kCannyHigh = 200;
constexpr int64_t kTile = 8;  // pixels

Image coloured(const GreyImage& grey) {
  Image image{grey.height, grey.width, {}};
  image.rgb.reserve(grey.grey.size() * 3);
  for (const uint8_t value : grey.grey) image.rgb.insert(image.rgb.end(), 3, value);
  return image;
}

/// The slope of an image at each pixel, with a margin of one pixel that has none.
struct Slopes {
  int64_t stride;
  std::vector<int32_t> dx, dy, magnitude;

  explicit Slopes(const GreyImage& image)
      : stride(image.width + 2),
        dx(static_cast<size_t>(stride * (image.height + 2))),
        dy(dx.size()),
        magnitude(dx.size()) {
    const auto pixel = [&](int64_t y, int64_t x) {
      y = std::clamp<int64_t>(y, 0, image.height - 1), x = std::clamp<int64_t>(x, 0, image.width - 1);
      return static_cast<int32_t>(image.grey[static_cast<size_t>(y * image.width + x)]);
    };
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const auto column = [&](int64_t at) { return pixel(y - 1, at) + 2 * pixel(y, at) + pixel(y + 1, at); };
        const auto row = [&](int64_t at) { return pixel(at, x - 1) + 2 * pixel(at, x) + pixel(at, x + 1); };
        const size_t i = index(y, x);
        dx[i] = column(x + 1) - column(x - 1);
        dy[i] = row(y + 1) - row(y - 1);
        magnitude[i] = std::abs(dx[i]) + std::abs(dy[i]);
      }
    }
  }

  size_t index(int64_t y, int64_t x) const { return static_cast<size_t>((y + 1) * stride + x + 1); }

  /// \return whether the magnitude is the largest along the slope. Of two that are equal the later one is not, along
  /// rows and columns.
  bool is_largest(size_t i) const {
    constexpr int64_t kTangent = 13573;  // of 22.5 degrees, in 15 bits
    const int64_t x = std::abs(dx[i]), y = int64_t{std::abs(dy[i])} << 15;
    const auto beyond = [&](size_t before, size_t after, bool is_equal_enough) {
      return magnitude[i] > magnitude[before] &&
             (magnitude[i] > magnitude[after] || (is_equal_enough && magnitude[i] == magnitude[after]));
    };
    const auto line = static_cast<size_t>(stride);
    if (y < x * kTangent) return beyond(i - 1, i + 1, true);
    if (y > x * kTangent + (x << 16)) return beyond(i - line, i + line, true);
    return (dx[i] ^ dy[i]) < 0 ? beyond(i - line + 1, i + line - 1, false) : beyond(i - line - 1, i + line + 1, false);
  }
};

}  // namespace

Preprocessor parse_preprocessor(std::string_view given) {
  const auto found = std::ranges::find(kNames, given, &std::pair<std::string_view, Preprocessor>::first);
  require(found != kNames.end(), ErrorKind::invalid_input,
          "preprocessor '{}' is unknown; use none, canny, gray or tile", given);
  return found->second;
}

std::string_view name(Preprocessor kind) { return kNames[static_cast<size_t>(kind)].first; }

Image preprocess(const Image& image, Preprocessor kind) {
  switch (kind) {
    case Preprocessor::none:
      return image;
    case Preprocessor::canny:
      return coloured(canny(grey_of(image), kCannyLow, kCannyHigh));
    case Preprocessor::gray:
      return coloured(grey_of(image));
    case Preprocessor::tile:
      return blur_tiles(image);
  }
  fail(ErrorKind::internal, "a preprocessor has a name");
}

GreyImage canny(const GreyImage& image, int32_t low, int32_t high) {
  const Slopes slopes(image);
  std::vector<bool> is_candidate(slopes.magnitude.size()), is_edge(slopes.magnitude.size());
  std::vector<size_t> found;
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x) {
      const size_t i = slopes.index(y, x);
      is_candidate[i] = slopes.magnitude[i] > low && slopes.is_largest(i);
      if (!is_candidate[i] || slopes.magnitude[i] <= high) continue;
      is_edge[i] = true;
      found.push_back(i);
    }
  }
  while (!found.empty()) {
    const size_t i = found.back();
    found.pop_back();
    const auto line = static_cast<size_t>(slopes.stride);
    for (const size_t above : {i - line, i, i + line})
      for (const size_t next : {above - 1, above, above + 1})
        if (is_candidate[next] && !is_edge[next]) {
          is_edge[next] = true;
          found.push_back(next);
        }
  }
  GreyImage edges{image.height, image.width, {}};
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x) edges.grey.push_back(is_edge[slopes.index(y, x)] ? 255 : 0);
  return edges;
}

Image blur_tiles(const Image& image) {
  const auto tiles = [](int64_t side) { return (side + kTile - 1) / kTile; };
  Image small{tiles(image.height), tiles(image.width), {}};
  for (int64_t top = 0; top < image.height; top += kTile) {
    for (int64_t left = 0; left < image.width; left += kTile) {
      const int64_t bottom = std::min(top + kTile, image.height), right = std::min(left + kTile, image.width);
      const int64_t pixels = (bottom - top) * (right - left);
      for (int64_t channel = 0; channel < 3; ++channel) {
        int64_t sum = pixels / 2;
        for (int64_t y = top; y < bottom; ++y)
          for (int64_t x = left; x < right; ++x)
            sum += image.rgb[static_cast<size_t>((y * image.width + x) * 3 + channel)];
        small.rgb.push_back(static_cast<uint8_t>(sum / pixels));
      }
    }
  }
  return resample_lanczos(small, {image.height, image.width});
}

}  // namespace nostos
