// Implements PyTorch's GPU noise on the host, operation by operation as the GPU does it but for the logarithm.
//
// This file is compiled without contraction of products and sums (see CMakeLists.txt): where the GPU fuses them,
// std::fma says so, and nowhere else.
#include "ops/noise.h"

#include <array>
#include <cmath>

#include "ops/cpu/cuda_sine.h"
#include "ops/cpu/parallel.h"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cpu;
namespace {

constexpr int64_t kGrain = 1024;  // threads of the GPU that a thread of the CPU at least stands for

using Words = std::array<uint32_t, 4>;

/// Philox 4x32 with 10 rounds (Salmon et al., SC 2011).
Words philox(Words counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

/// _curand_box_muller of curand_normal.h: the sine is the first of the two. PyTorch adds the mean 0, which turns -0
/// into +0.
std::array<float, 2> box_muller(uint32_t x, uint32_t y) {
  constexpr float kTwoPi32 = 0x1p-32f * 6.2831855f;
  const float u = std::fma(static_cast<float>(x), 0x1p-32f, 0x1p-33f);
  const float v = std::fma(static_cast<float>(y), kTwoPi32, kTwoPi32 / 2);
  const float radius = std::sqrt(-2.0f * std::log(u));
  const SinCos angle = cuda_sincos(v);
  return {angle.sin * radius + 0.0f, angle.cos * radius + 0.0f};
}

}  // namespace

void run(OnCpu<philox_normal>, Context& ctx, uint64_t seed, View out, uint64_t offset) {
  float* const values = out.data<float>();
  const int64_t elements = out.elements(), threads = ops::philox_threads(elements);
  for (int64_t round = 0; round * threads * 4 < elements; ++round) {
    parallel_ranges(ctx, threads, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        const int64_t first = round * threads * 4 + thread;
        if (first >= elements) return;
        const uint64_t counter = offset / 4 + static_cast<uint64_t>(round);
        const Words words = philox(
            {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), static_cast<uint32_t>(thread), 0},
            seed);
        const auto [n0, n1] = box_muller(words[0], words[1]);
        const auto [n2, n3] = box_muller(words[2], words[3]);
        const std::array four = {n0, n1, n2, n3};
        for (int64_t i = 0; i < 4 && first + i * threads < elements; ++i)
          values[first + i * threads] = four[static_cast<size_t>(i)];
      }
    });
  }
}

}  // namespace nostos::ops
