// Implements what is made of pictures of one channel.
//
// This file is compiled without contraction of products and sums (see CMakeLists.txt): Pillow's blur takes its weights
// from float32 operations, and their last bits decide pixels.
#include "io/grey_image.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace nostos {
namespace {

constexpr int kBoxes = 3;
constexpr int kFractionBits = 24;  // of a box's weights; 8 more are a pixel's

/// A box filter of a real length: 2 * reach + 1 pixels of weight `inner` and one at each end of weight `end`.
struct Box {
  int64_t reach = 0;
  uint32_t inner = 0, end = 0;  ///< in units of 2^-kFractionBits
};

/// The box of which kBoxes in a row have the variance radius^2, from its float32 radius on as Pillow computes it.
Box box_of(float radius) {
  const float variance = radius * radius / kBoxes;
  const float length = static_cast<float>(std::sqrt(12.0 * static_cast<double>(variance) + 1.0));
  const float whole = static_cast<float>(std::floor((static_cast<double>(length) - 1.0) / 2.0));
  float part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  part /= 6 * (variance - (whole + 1) * (whole + 1));
  const float reach = whole + part;

  constexpr uint32_t kOne = uint32_t{1} << kFractionBits;
  Box box{static_cast<int64_t>(reach), static_cast<uint32_t>(static_cast<float>(kOne) / (reach * 2 + 1)), 0};
  box.end = (kOne - static_cast<uint32_t>(2 * box.reach + 1) * box.inner) / 2;
  return box;
}

/// Filters `width` pixels, of which the first and the last one go on outside. \param line of width + 2 (reach + 1)
/// pixels, the middle ones of which are given
void filter_line(const Box& box, std::vector<uint8_t>& line, int64_t width, uint8_t* out) {
  const int64_t margin = box.reach + 1;
  std::fill_n(line.begin(), margin, line[static_cast<size_t>(margin)]);
  std::fill_n(line.end() - margin, margin, line[static_cast<size_t>(margin + width - 1)]);
  // out[x] is made of line[x] to line[x + 2 margin].
  const uint8_t* in = line.data();
  uint32_t sum = 0;
  for (int64_t i = 1; i < 2 * margin; ++i) sum += in[i];
  for (int64_t x = 0; x < width; ++x, ++in) {
    const uint32_t weighted = sum * box.inner + (uint32_t{in[0]} + in[2 * margin]) * box.end;
    out[x] = static_cast<uint8_t>((weighted + (uint32_t{1} << (kFractionBits - 1))) >> kFractionBits);
    sum += in[2 * margin];
    sum -= in[1];
  }
}

GreyImage filter_rows(const Box& box, GreyImage image) {
  const int64_t margin = box.reach + 1;
  std::vector<uint8_t> line(static_cast<size_t>(image.width + 2 * margin));
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t* const row = image.grey.data() + y * image.width;
    for (int i = 0; i < kBoxes; ++i) {
      std::copy_n(row, image.width, line.begin() + margin);
      filter_line(box, line, image.width, row);
    }
  }
  return image;
}

GreyImage transposed(const GreyImage& image) {
  GreyImage made{image.width, image.height, std::vector<uint8_t>(image.grey.size())};
  for (int64_t y = 0; y < image.height; ++y) {
    for (int64_t x = 0; x < image.width; ++x)
      made.grey[static_cast<size_t>(x * image.height + y)] = image.grey[static_cast<size_t>(y * image.width + x)];
  }
  return made;
}

}  // namespace

GreyImage grey_of(const Image& image) {
  GreyImage made{image.height, image.width, {}};
  made.grey.reserve(image.rgb.size() / 3);
  for (size_t i = 0; i + 2 < image.rgb.size(); i += 3) {
    const uint32_t luma = 19595u * image.rgb[i] + 38470u * image.rgb[i + 1] + 7471u * image.rgb[i + 2] + 32768u;
    made.grey.push_back(static_cast<uint8_t>(luma >> 16));
  }
  return made;
}

GreyImage binary_of(const GreyImage& mask) {
  GreyImage made = mask;
  for (uint8_t& value : made.grey) value = value >= 128 ? 255 : 0;
  return made;
}

GreyImage interpolate_nearest(const GreyImage& image, ImageSize size) {
  check(image.height > 0 && image.width > 0 && size.height > 0 && size.width > 0, "images have pixels");
  const auto place = [](int64_t at, int64_t from, int64_t to) {
    const float step = static_cast<float>(from) / static_cast<float>(to);
    return std::min(static_cast<int64_t>(static_cast<float>(at) * step), from - 1);
  };
  GreyImage made{size.height, size.width, {}};
  made.grey.reserve(static_cast<size_t>(size.height * size.width));
  for (int64_t y = 0; y < size.height; ++y) {
    const uint8_t* const row = image.grey.data() + place(y, image.height, size.height) * image.width;
    for (int64_t x = 0; x < size.width; ++x) made.grey.push_back(row[place(x, image.width, size.width)]);
  }
  return made;
}

std::vector<float> interpolate_bilinear(const GreyImage& image, ImageSize size) {
  check(image.height > 0 && image.width > 0 && size.height > 0 && size.width > 0, "images have pixels");
  check(image.height % (2 * size.height) == 0 && image.width % (2 * size.width) == 0,
        "a mask's sides are even multiples of its tokens'");
  const int64_t row_step = image.height / size.height, column_step = image.width / size.width;
  std::vector<float> made;
  made.reserve(static_cast<size_t>(size.height * size.width));
  for (int64_t y = 0; y < size.height; ++y) {
    const uint8_t* const below = image.grey.data() + (y * row_step + row_step / 2) * image.width;
    const uint8_t* const above = below - image.width;
    for (int64_t x = 0; x < size.width; ++x) {
      const int64_t right = x * column_step + column_step / 2;
      const int sum = above[right - 1] + above[right] + below[right - 1] + below[right];
      made.push_back(static_cast<float>(sum) / (4 * 255));
    }
  }
  return made;
}

GreyImage gaussian_blur(const GreyImage& image, float radius) {
  require(radius >= 0 && radius <= 1000, ErrorKind::invalid_input, "the radius of a blur is 0 to 1000, not {}", radius);
  if (radius == 0 || image.grey.empty()) return image;
  const Box box = box_of(radius);
  return transposed(filter_rows(box, transposed(filter_rows(box, image))));
}

}  // namespace nostos
