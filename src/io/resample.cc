// Implements resampling and cropping.
#include "io/resample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

template <class Picture>
constexpr int kChannels = std::is_same_v<Picture, Image> ? 3 : 1;

std::vector<uint8_t>& values_of(Image& image) { return image.rgb; }
const std::vector<uint8_t>& values_of(const Image& image) { return image.rgb; }
std::vector<uint8_t>& values_of(GreyImage& image) { return image.grey; }
const std::vector<uint8_t>& values_of(const GreyImage& image) { return image.grey; }

template <class Picture>
Picture blank(int64_t height, int64_t width) {
  return {height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * kChannels<Picture>))};
}

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

template <class Picture>
Picture resample_rows(const Picture& image, int64_t width) {
  constexpr int kStep = kChannels<Picture>;
  const Taps taps = taps_of(image.width, width);
  Picture made = blank<Picture>(image.height, width);
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* const row = values_of(image).data() + y * image.width * kStep;
    uint8_t* out = values_of(made).data() + y * width * kStep;
    for (const Taps::Window& window : taps.windows) {
      const int32_t* const weights = taps.weights.data() + window.weights;
      const uint8_t* pixel = row + window.first * kStep;
      int32_t sums[kStep];
      std::fill_n(sums, kStep, kHalf);
      for (int64_t i = 0; i < window.count; ++i, pixel += kStep) {
        for (int c = 0; c < kStep; ++c) sums[c] += pixel[c] * weights[i];
      }
      out = std::transform(sums, sums + kStep, out, pixel_of);
    }
  }
  return made;
}

template <class Picture>
Picture resample_columns(const Picture& image, int64_t height) {
  const Taps taps = taps_of(image.height, height);
  const int64_t row_bytes = image.width * kChannels<Picture>;
  Picture made = blank<Picture>(height, image.width);
  std::vector<int32_t> sums(static_cast<size_t>(row_bytes));
  for (int64_t y = 0; y < height; ++y) {
    const Taps::Window& window = taps.windows[static_cast<size_t>(y)];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int64_t i = 0; i < window.count; ++i) {
      const int32_t weight = taps.weights[window.weights + static_cast<size_t>(i)];
      const uint8_t* const row = values_of(image).data() + (window.first + i) * row_bytes;
      for (size_t x = 0; x < sums.size(); ++x) sums[x] += row[x] * weight;
    }
    std::transform(sums.begin(), sums.end(), values_of(made).begin() + y * row_bytes, pixel_of);
  }
  return made;
}

template <class Picture>
void check_sizes(const Picture& image, ImageSize size) {
  check(image.height > 0 && image.width > 0 && size.height > 0 && size.width > 0, "images have pixels");
}

template <class Picture>
Picture lanczos_resampled(const Picture& image, ImageSize size) {
  check_sizes(image, size);
  if (size.height == image.height && size.width == image.width) return image;
  if (size.width == image.width) return resample_columns(image, size.height);
  if (size.height == image.height) return resample_rows(image, size.width);
  // Both passes round to 8 bits, so that their order decides bits.
  const int64_t lost_rows = image.height - size.height, lost_columns = image.width - size.width;
  if (lost_rows > 0 && lost_rows > 2 * lost_columns)
    return resample_rows(resample_columns(image, size.height), size.width);
  return resample_columns(resample_rows(image, size.width), size.height);
}

/// The pixel of each place of a line that is sampled at the places' centres.
std::vector<int64_t> nearest_of(int64_t from, int64_t to) {
  const double step = static_cast<double>(from) / static_cast<double>(to);
  std::vector<int64_t> places;
  places.reserve(static_cast<size_t>(to));
  double place = step * 0.5;
  for (int64_t i = 0; i < to; ++i, place += step) places.push_back(std::min(static_cast<int64_t>(place), from - 1));
  return places;
}

template <class Picture>
Picture nearest_resampled(const Picture& image, ImageSize size) {
  check_sizes(image, size);
  constexpr int kStep = kChannels<Picture>;
  const std::vector<int64_t> rows = nearest_of(image.height, size.height),
                             columns = nearest_of(image.width, size.width);
  Picture made = blank<Picture>(size.height, size.width);
  uint8_t* out = values_of(made).data();
  for (const int64_t row : rows) {
    const uint8_t* const in = values_of(image).data() + row * image.width * kStep;
    for (const int64_t column : columns) out = std::copy_n(in + column * kStep, kStep, out);
  }
  return made;
}

/// Copies `part` into `whole`, its first pixel at (top, left); what lies outside is left out.
template <class Picture>
void paste(const Picture& part, Picture& whole, int64_t top, int64_t left) {
  constexpr int kStep = kChannels<Picture>;
  const int64_t first = std::max<int64_t>(0, -left), end = std::min(part.width, whole.width - left);
  const int64_t last_row = std::min(part.height, whole.height - top);
  for (int64_t y = std::max<int64_t>(0, -top); y < last_row; ++y) {
    const auto row = values_of(part).begin() + (y * part.width + first) * kStep;
    std::copy_n(row, (end - first) * kStep,
                values_of(whole).begin() + ((top + y) * whole.width + left + first) * kStep);
  }
}

/// What Pillow's bicubic filter makes at an edge, of the line there and the next one.
uint8_t edge_value(uint8_t outer, uint8_t inner) {
  return static_cast<uint8_t>(std::clamp((9 * outer - inner + 4) >> 3, 0, 255));
}

/// A line of `picture` along an edge: the edge's if there is but one, else as edge_value() has it.
template <class Picture>
Picture edge_line(const Picture& picture, bool is_row, bool is_first) {
  constexpr int kStep = kChannels<Picture>;
  const int64_t lines = is_row ? picture.height : picture.width;
  const int64_t outer = is_first ? 0 : lines - 1;
  const int64_t inner = lines == 1 ? outer : is_first ? 1 : lines - 2;
  Picture line = is_row ? blank<Picture>(1, picture.width) : blank<Picture>(picture.height, 1);
  const int64_t count = is_row ? picture.width * kStep : kStep;  // of values that follow one another
  const std::vector<uint8_t>& values = values_of(picture);
  for (int64_t y = 0; y < line.height; ++y) {
    const int64_t row = y * picture.width * kStep;
    for (int64_t i = 0; i < count; ++i) {
      const auto at = [&](int64_t place) { return values[static_cast<size_t>(row + place * count + i)]; };
      values_of(line)[static_cast<size_t>(y * count + i)] = lines == 1 ? at(outer) : edge_value(at(outer), at(inner));
    }
  }
  return line;
}

/// `middle` in the midst of a picture of `size`, its edges going on where it has fewer rows or columns.
template <class Picture>
Picture padded(const Picture& middle, ImageSize size) {
  const int64_t top = size.height / 2 - middle.height / 2, left = size.width / 2 - middle.width / 2;
  Picture made = blank<Picture>(size.height, size.width);
  paste(middle, made, top, left);
  const auto fill = [&](bool is_row, int64_t begin, int64_t end, bool is_first) {
    if (begin >= end) return;
    const Picture line = edge_line(middle, is_row, is_first);
    for (int64_t i = begin; i < end; ++i) paste(line, made, is_row ? i : top, is_row ? left : i);
  };
  fill(true, 0, top, true);
  fill(true, top + middle.height, size.height, false);
  fill(false, 0, left, true);
  fill(false, left + middle.width, size.width, false);
  return made;
}

template <class Picture>
Picture fitted(const Picture& picture, ImageSize size, ImageFit kind) {
  check_sizes(picture, size);
  const Picture middle = lanczos_resampled(picture, inner_size({picture.height, picture.width}, size, kind));
  return middle.height == size.height && middle.width == size.width ? middle : padded(middle, size);
}

constexpr std::array<std::pair<std::string_view, ImageFit>, 3> kFits = {
    {{"crop", ImageFit::crop}, {"pad", ImageFit::pad}, {"stretch", ImageFit::stretch}}};

}  // namespace

Image resample_lanczos(const Image& image, ImageSize size) { return lanczos_resampled(image, size); }

GreyImage resample_lanczos(const GreyImage& image, ImageSize size) { return lanczos_resampled(image, size); }

Image resample_nearest(const Image& image, ImageSize size) { return nearest_resampled(image, size); }

GreyImage resample_nearest(const GreyImage& image, ImageSize size) { return nearest_resampled(image, size); }

Image crop_centre(const Image& image, ImageSize size) {
  check(size.height > 0 && size.width > 0 && size.height <= image.height && size.width <= image.width,
        "a crop lies within the image");
  const int64_t left = (image.width - size.width) / 2;
  const int64_t top = (image.height - size.height) / 2;
  Image cropped{size.height, size.width, {}};
  cropped.rgb.reserve(static_cast<size_t>(size.height * size.width * kChannels<Image>));
  for (int64_t y = top; y < top + size.height; ++y) {
    const auto row = image.rgb.begin() + (y * image.width + left) * kChannels<Image>;
    cropped.rgb.insert(cropped.rgb.end(), row, row + size.width * kChannels<Image>);
  }
  return cropped;
}

ImageFit parse_image_fit(std::string_view name) {
  for (const auto& [own, kind] : kFits) {
    if (own == name) return kind;
  }
  fail(ErrorKind::invalid_input, "image_fit is '{}': it is one of crop, pad, stretch", name);
}

std::string_view name(ImageFit fit) { return kFits[static_cast<size_t>(fit)].first; }

ImageSize inner_size(ImageSize picture, ImageSize size, ImageFit kind) {
  if (kind == ImageFit::stretch) return size;
  // As the reference compares them, in float64.
  const double ratio = static_cast<double>(size.width) / static_cast<double>(size.height);
  const double own = static_cast<double>(picture.width) / static_cast<double>(picture.height);
  const bool by_width = kind == ImageFit::crop ? ratio > own : ratio < own;
  if (by_width) return {std::max<int64_t>(picture.height * size.width / picture.width, 1), size.width};
  return {size.height, std::max<int64_t>(picture.width * size.height / picture.height, 1)};
}

Image fit(const Image& picture, ImageSize size, ImageFit kind) { return fitted(picture, size, kind); }

GreyImage fit(const GreyImage& picture, ImageSize size, ImageFit kind) { return fitted(picture, size, kind); }

}  // namespace nostos
