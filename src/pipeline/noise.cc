// Computes PyTorch's normal noise of CPUs, operation by operation as its generator does.
//
// This file is compiled without contraction of products and sums (see CMakeLists.txt): where PyTorch's compiled code
// fuses them, std::fma says so, and nowhere else.
#include "pipeline/noise.h"

#include <array>
#include <bit>
#include <cmath>
#include <numbers>
#include <random>

#include "base/error.h"

namespace nostos {
namespace {

constexpr size_t kParallelValues = 4096;  // fewer are filled by one thread

/// The uniform float in [0, 1) of one mt19937 word: its lower 24 bits (ATen/core/TransformationHelper.h, uniform_real).
float uniform_float(std::mt19937& generator) { return static_cast<float>(generator() & 0xffffffu) * 0x1p-24f; }

/// The uniform double in [0, 1) of two mt19937 words, the first one on top: the lower 53 bits.
double uniform_double(std::mt19937& generator) {
  const uint64_t high = generator();
  const uint64_t bits = (high << 32 | generator()) & ((uint64_t{1} << 53) - 1);
  return static_cast<double>(bits) * 0x1p-53;
}

/// Natural logarithm of a normal positive float: log256_ps of ATen/native/cpu/avx_mathfun.h, one lane.
float cephes_log(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  float exponent = static_cast<float>(static_cast<int32_t>(bits >> 23) - 127) + 1.0f;
  float m = std::bit_cast<float>((bits & 0x807fffffu) | std::bit_cast<uint32_t>(0.5f));  // in [0.5, 1)
  if (m < 0.707106781186547524f) {
    exponent -= 1.0f;
    m = (m - 1.0f) + m;
  } else {
    m -= 1.0f;
  }
  const float z = m * m;
  constexpr std::array kCoefficients = {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                        -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f};
  float y = 7.0376836292e-2f;
  for (const float coefficient : kCoefficients) y = std::fma(y, m, coefficient);
  y = std::fma(y * m, z, exponent * -2.12194440e-4f);
  y = std::fma(-z, 0.5f, y);
  return std::fma(exponent, 0.693359375f, m + y);
}

struct SinCos {
  float sin, cos;
};

/// Sine and cosine of 0 <= x < 8192: sincos256_ps of ATen/native/cpu/avx_mathfun.h, one lane.
SinCos cephes_sincos(float x) {
  const int32_t octant = (static_cast<int32_t>(x * 1.27323954473516f) + 1) & ~1;
  const float multiple = static_cast<float>(octant);
  x = std::fma(multiple, -0.78515625f, x);
  x = std::fma(multiple, -2.4187564849853515625e-4f, x);
  x = std::fma(multiple, -3.77489497744594108e-8f, x);
  const float z = x * x;

  float cosine = 2.443315711809948e-5f;
  cosine = std::fma(cosine, z, -1.388731625493765e-3f);
  cosine = std::fma(cosine, z, 4.166664568298827e-2f);
  cosine = std::fma(cosine * z, z, -(z * 0.5f)) + 1.0f;

  float sine = -1.9515295891e-4f;
  sine = std::fma(sine, z, 8.3321608736e-3f);
  sine = std::fma(sine, z, -1.6666654611e-1f);
  sine = std::fma(sine * z, x, x);

  if (octant & 2) std::swap(sine, cosine);
  if (octant & 4) sine = -sine;
  if (!((octant - 2) & 4)) cosine = -cosine;
  return {sine, cosine};
}

/// Turns 16 uniforms in place into 16 normals: the radius comes from the first eight, the angle from the last eight
/// (normal_fill_16_AVX2 of ATen/native/cpu/DistributionTemplates.h).
void box_muller_16(float* values) {
  for (int i = 0; i < 8; ++i) {
    const float radius = std::sqrt(-2.0f * cephes_log(1.0f - values[i]));
    const SinCos angle = cephes_sincos(static_cast<float>(2.0 * std::numbers::pi) * values[i + 8]);
    // Adding the mean 0 turns -0 into +0.
    values[i] = radius * angle.cos + 0.0f;
    values[i + 8] = radius * angle.sin + 0.0f;
  }
}

/// The uniform of one mt19937 word as bfloat16 makes it: its lower 8 bits, exact (the same uniform_real).
bfloat16 uniform_bfloat16(std::mt19937& generator) {
  return to_bfloat16(static_cast<float>(generator() & 0xffu) * 0x1p-8f);
}

/// What 256 possible uniforms u become, every operation rounded to bfloat16.
struct RoundedBoxMuller {
  std::array<float, 256> radius;    ///< sqrt(-2 log(1 - u))
  std::array<float, 256> cos, sin;  ///< of 2 pi u
};

float rounded(double value) { return to_float(to_bfloat16(static_cast<float>(value))); }

RoundedBoxMuller make_rounded_box_muller() {
  RoundedBoxMuller made;
  for (size_t i = 0; i < 256; ++i) {
    const double u = static_cast<double>(i) / 256;
    made.radius[i] = rounded(std::sqrt(rounded(-2 * rounded(std::log(1 - u)))));
    const double theta = rounded(2 * std::numbers::pi * u);
    made.cos[i] = rounded(std::cos(theta));
    made.sin[i] = rounded(std::sin(theta));
  }
  return made;
}

/// normal_fill_16 of ATen/native/cpu/DistributionTemplates.h for bfloat16.
void box_muller_16(bfloat16* values) {
  static const RoundedBoxMuller table = make_rounded_box_muller();
  for (int i = 0; i < 8; ++i) {
    const auto radius = static_cast<size_t>(to_float(values[i]) * 256);
    const auto angle = static_cast<size_t>(to_float(values[i + 8]) * 256);
    // Adding the mean 0 turns -0 into +0.
    values[i] = to_bfloat16(table.radius[radius] * table.cos[angle] + 0.0f);
    values[i + 8] = to_bfloat16(table.radius[radius] * table.sin[angle] + 0.0f);
  }
}

float uniform(std::mt19937& generator, float) { return uniform_float(generator); }
bfloat16 uniform(std::mt19937& generator, bfloat16) { return uniform_bfloat16(generator); }

/// normal_fill_AVX2 and normal_fill: 16 and more values.
template <class T>
void fill_blocks(std::mt19937& generator, std::span<T> out) {
  for (T& value : out) value = uniform(generator, T());
  const size_t whole = out.size() / 16 * 16;
#pragma omp parallel for if (whole > kParallelValues)
  for (size_t begin = 0; begin < whole; begin += 16) box_muller_16(&out[begin]);
  if (whole == out.size()) return;
  const std::span<T> tail = out.last(16);
  for (T& value : tail) value = uniform(generator, T());
  box_muller_16(tail.data());
}

}  // namespace

RngKind parse_rng(std::string_view name) {
  if (name == "torch-cpu") return RngKind::torch_cpu;
  if (name == "torch-cuda") return RngKind::torch_cuda;
  fail(ErrorKind::invalid_input, "unknown noise generator '{}': it is one of torch-cpu, torch-cuda", name);
}

std::string_view name(RngKind kind) { return kind == RngKind::torch_cpu ? "torch-cpu" : "torch-cuda"; }

/// at::normal_distribution<double>, which fewer than 16 values of any type come from.
double TorchCpuGenerator::next_of_pair() {
  if (kept_) {
    const double value = *kept_;
    kept_.reset();
    return value;
  }
  const double u1 = uniform_double(words_);
  const double u2 = uniform_double(words_);
  const double radius = std::sqrt(-2.0 * std::log1p(-u2));
  const double theta = 2.0 * std::numbers::pi * u1;
  kept_ = radius * std::sin(theta);
  return radius * std::cos(theta);
}

void TorchCpuGenerator::normal(std::span<float> out) {
  if (out.size() >= 16) return fill_blocks(words_, out);
  for (float& value : out) value = static_cast<float>(next_of_pair() + 0.0);
}

void TorchCpuGenerator::normal(std::span<bfloat16> out) {
  if (out.size() >= 16) return fill_blocks(words_, out);
  for (bfloat16& value : out) value = to_bfloat16(static_cast<float>(next_of_pair() + 0.0));
}

void fill_torch_cpu_normal(uint64_t seed, std::span<float> out) { TorchCpuGenerator(seed).normal(out); }

}  // namespace nostos
