// Owns how much two images of one size differ, by the measures that papers report.
#pragma once

#include "io/image.h"

namespace nostos {

/// \return the peak signal-to-noise ratio in dB, of all colours together: 10 log10(255^2 / mean squared difference);
/// infinite where nothing differs. \throws Error invalid_input if the sizes differ
double psnr(const Image& a, const Image& b);

/// Pixels a side of the window of ssim().
inline constexpr int64_t kSsimWindow = 11;

/// \return the structural similarity, at most 1: the mean over all places of a Gaussian window of 11 x 11 pixels and
/// sigma 1.5 that lie in the image, and over the three colours. K1 = 0.01, K2 = 0.03, L = 255; as scikit-image has it
/// with gaussian_weights and without sample covariances.
/// \throws Error invalid_input if the sizes differ, or a side is shorter than the window
/// Source: Wang, Bovik, Sheikh, Simoncelli, 2004.
double ssim(const Image& a, const Image& b);

}  // namespace nostos
