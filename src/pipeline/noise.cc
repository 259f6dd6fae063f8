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

/// normal_fill_AVX2: 16 and more values.
void fill_blocks(std::mt19937& generator, std::span<float> out) {
  for (float& value : out) value = uniform_float(generator);
  const size_t whole = out.size() / 16 * 16;
#pragma omp parallel for if (whole > kParallelValues)
  for (size_t begin = 0; begin < whole; begin += 16) box_muller_16(&out[begin]);
  if (whole == out.size()) return;
  const std::span<float> tail = out.last(16);
  for (float& value : tail) value = uniform_float(generator);
  box_muller_16(tail.data());
}

/// at::normal_distribution<double>: fewer than 16 values, two from each pair of uniforms.
void fill_pairs(std::mt19937& generator, std::span<float> out) {
  for (size_t i = 0; i < out.size(); i += 2) {
    const double u1 = uniform_double(generator);
    const double u2 = uniform_double(generator);
    const double radius = std::sqrt(-2.0 * std::log1p(-u2));
    const double theta = 2.0 * std::numbers::pi * u1;
    out[i] = static_cast<float>(radius * std::cos(theta) + 0.0);
    if (i + 1 < out.size()) out[i + 1] = static_cast<float>(radius * std::sin(theta) + 0.0);
  }
}

}  // namespace

RngKind parse_rng(std::string_view name) {
  if (name == "torch-cpu") return RngKind::torch_cpu;
  if (name == "torch-cuda") return RngKind::torch_cuda;
  fail(ErrorKind::invalid_input, "unknown noise generator '{}': it is one of torch-cpu, torch-cuda", name);
}

std::string_view name(RngKind kind) { return kind == RngKind::torch_cpu ? "torch-cpu" : "torch-cuda"; }

void TorchCpuGenerator::fill_normal(std::span<float> out) {
  if (out.size() < 16) return fill_pairs(words_, out);
  fill_blocks(words_, out);
}

}  // namespace nostos
