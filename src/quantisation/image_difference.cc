// Implements PSNR and SSIM.
#include "quantisation/image_difference.h"

#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace nostos {
namespace {

constexpr double kSigma = 1.5, kLevels = 255;
constexpr double kC1 = (0.01 * kLevels) * (0.01 * kLevels), kC2 = (0.03 * kLevels) * (0.03 * kLevels);
constexpr int64_t kColours = 3;

void require_same_size(const Image& a, const Image& b) {
  require(a.height == b.height && a.width == b.width, ErrorKind::invalid_input,
          "images of {}x{} and {}x{} cannot be compared: sizes must be the same", a.width, a.height, b.width, b.height);
}

std::array<double, kSsimWindow> window() {
  std::array<double, kSsimWindow> weights{};
  double sum = 0;
  for (int64_t i = 0; i < kSsimWindow; ++i) {
    const double x = static_cast<double>(i - kSsimWindow / 2) / kSigma;
    sum += weights[static_cast<size_t>(i)] = std::exp(-x * x / 2);
  }
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// Weighted sums of the windows at all places: of a, b, a^2, b^2 and a b.
using Moments = std::array<double, 5>;

/// \return the sums of one colour over the windows that begin in a row of the image.
std::vector<Moments> moments(const Image& a, const Image& b, int64_t top, int64_t colour) {
  const std::array<double, kSsimWindow> weights = window();
  std::vector<Moments> columns(static_cast<size_t>(a.width)), made(static_cast<size_t>(a.width - kSsimWindow + 1));
  for (int64_t i = 0; i < kSsimWindow; ++i) {
    for (int64_t x = 0; x < a.width; ++x) {
      const auto at = static_cast<size_t>(((top + i) * a.width + x) * kColours + colour);
      const double p = a.rgb[at], q = b.rgb[at];
      const Moments values{p, q, p * p, q * q, p * q};
      for (size_t k = 0; k < values.size(); ++k)
        columns[static_cast<size_t>(x)][k] += weights[static_cast<size_t>(i)] * values[k];
    }
  }
  for (size_t x = 0; x < made.size(); ++x)
    for (size_t i = 0; i < weights.size(); ++i)
      for (size_t k = 0; k < made[x].size(); ++k) made[x][k] += weights[i] * columns[x + i][k];
  return made;
}

double similarity(const Moments& m) {
  const auto& [a, b, aa, bb, ab] = m;
  return (2 * a * b + kC1) * (2 * (ab - a * b) + kC2) / ((a * a + b * b + kC1) * (aa - a * a + bb - b * b + kC2));
}

}  // namespace

double psnr(const Image& a, const Image& b) {
  require_same_size(a, b);
  double squares = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) {
    const double difference = static_cast<double>(a.rgb[i]) - static_cast<double>(b.rgb[i]);
    squares += difference * difference;
  }
  return 10 * std::log10(kLevels * kLevels * static_cast<double>(a.rgb.size()) / squares);
}

double ssim(const Image& a, const Image& b) {
  require_same_size(a, b);
  require(a.height >= kSsimWindow && a.width >= kSsimWindow, ErrorKind::invalid_input,
          "images of {}x{} are too small for SSIM: they must have {} pixels a side", a.width, a.height, kSsimWindow);
  double sum = 0;
  int64_t count = 0;
  for (int64_t colour = 0; colour < kColours; ++colour) {
    for (int64_t top = 0; top + kSsimWindow <= a.height; ++top) {
      for (const Moments& of_place : moments(a, b, top, colour)) {
        sum += similarity(of_place);
        ++count;
      }
    }
  }
  return sum / static_cast<double>(count);
}

}  // namespace nostos
