// Implements resampling and cropping.
#include "io/resample.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

constexpr int kChannels = 3;
constexpr double kLobes = 3;
/// Of the weights' fraction: 8 bits of a pixel, and 2 for what weights of both signs overshoot, are left of 32.
constexpr int kFractionBits = 32 - 8 - 2;

double sinc(double x) {
  if (x == 0) return 1;
  const double angle = x * std::numbers::pi;
  return std::sin(angle) / angle;
}

double lanczos(double x) { return x >= -kLobes && x < kLobes ? sinc(x) * sinc(x / kLobes) : 0; }

/// What of a line of pixels makes each pixel of its resampled line.
struct Taps {
  struct Window {
    int64_t first = 0, count = 0;  ///< pixels of the line
    size_t weights = 0;            ///< where in `weights` its own begin
  };
  std::vector<Window> windows;   ///< one for each pixel of the result
  std::vector<int32_t> weights;  ///< in units of 2^-kFractionBits
};

Taps taps_of(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);
  const double reach = kLobes * stretch;
  const double per_pixel = 1 / stretch;
  Taps taps;
  std::vector<double> exact;
  for (int64_t x = 0; x < to; ++x) {
    const double centre = (static_cast<double>(x) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(centre + reach + 0.5), from);
    exact.clear();
    double sum = 0;
    for (int64_t i = 0; i < end - first; ++i) {
      exact.push_back(lanczos((static_cast<double>(i + first) - centre + 0.5) * per_pixel));
      sum += exact.back();
    }
    taps.windows.push_back({first, end - first, taps.weights.size()});
    for (const double weight : exact) {
      const double scaled = (sum == 0 ? weight : weight / sum) * (1 << kFractionBits);
      taps.weights.push_back(static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return taps;
}

uint8_t pixel_of(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

constexpr int32_t kHalf = 1 << (kFractionBits - 1);

Image resample_rows(const Image& image, int64_t width) {
  const Taps taps = taps_of(image.width, width);
  Image made{image.height, width, std::vector<uint8_t>(static_cast<size_t>(image.height * width * kChannels))};
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* const row = image.rgb.data() + y * image.width * kChannels;
    uint8_t* out = made.rgb.data() + y * width * kChannels;
    for (const Taps::Window& window : taps.windows) {
      const int32_t* const weights = taps.weights.data() + window.weights;
      const uint8_t* pixel = row + window.first * kChannels;
      int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (int64_t i = 0; i < window.count; ++i, pixel += kChannels) {
        red += pixel[0] * weights[i];
        green += pixel[1] * weights[i];
        blue += pixel[2] * weights[i];
      }
      *out++ = pixel_of(red);
      *out++ = pixel_of(green);
      *out++ = pixel_of(blue);
    }
  }
  return made;
}

Image resample_columns(const Image& image, int64_t height) {
  const Taps taps = taps_of(image.height, height);
  const int64_t row_bytes = image.width * kChannels;
  Image made{height, image.width, std::vector<uint8_t>(static_cast<size_t>(height * row_bytes))};
  std::vector<int32_t> sums(static_cast<size_t>(row_bytes));
  for (int64_t y = 0; y < height; ++y) {
    const Taps::Window& window = taps.windows[static_cast<size_t>(y)];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int64_t i = 0; i < window.count; ++i) {
      const int32_t weight = taps.weights[window.weights + static_cast<size_t>(i)];
      const uint8_t* const row = image.rgb.data() + (window.first + i) * row_bytes;
      for (size_t x = 0; x < sums.size(); ++x) sums[x] += row[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), made.rgb.begin() + y * row_bytes, pixel_of);
  }
  return made;
}

}  // namespace

Image resample_lanczos(const Image& image, ImageSize size) {
  check(image.height > 0 && image.width > 0 && size.height > 0 && size.width > 0, "images have pixels");
  if (size.height == image.height && size.width == image.width) return image;
  if (size.width == image.width) return resample_columns(image, size.height);
  if (size.height == image.height) return resample_rows(image, size.width);
  // Both passes round to 8 bits, so that their order decides bits.
  const int64_t lost_rows = image.height - size.height, lost_columns = image.width - size.width;
  if (lost_rows > 0 && lost_rows > 2 * lost_columns)
    return resample_rows(resample_columns(image, size.height), size.width);
  return resample_columns(resample_rows(image, size.width), size.height);
}

Image crop_centre(const Image& image, ImageSize size) {
  check(size.height > 0 && size.width > 0 && size.height <= image.height && size.width <= image.width,
        "a crop lies within the image");
  const int64_t left = (image.width - size.width) / 2;
  const int64_t top = (image.height - size.height) / 2;
  Image cropped{size.height, size.width, {}};
  cropped.rgb.reserve(static_cast<size_t>(size.height * size.width * kChannels));
  for (int64_t y = top; y < top + size.height; ++y) {
    const auto row = image.rgb.begin() + (y * image.width + left) * kChannels;
    cropped.rgb.insert(cropped.rgb.end(), row, row + size.width * kChannels);
  }
  return cropped;
}

}  // namespace nostos
