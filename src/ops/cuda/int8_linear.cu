// Implements the rounding of rows to 8 bits.
#include "ops/int8_linear.h"

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/launch.h"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;
namespace {

// A thread has units of 16 neighbouring numbers; the 16 units of a rotation of 256 are half a warp's.
constexpr int kUnit = 16, kMostThreads = 640, kMostUnits = 4;

/// The product with H4, twice as large: each becomes the sum less twice the one that faces it.
__device__ inline void rotate_four(float& a, float& b, float& c, float& d) {
  const float sum = (a + b) + (c + d);
  const float facing[] = {d, c, b, a};
  a = sum - 2 * facing[0], b = sum - 2 * facing[1], c = sum - 2 * facing[2], d = sum - 2 * facing[3];
}

/// The products with H4 of the lowest two digits of 16 neighbours' indices to the base 4.
__device__ inline void rotate_two_digits(float (&x)[kUnit]) {
#pragma unroll
  for (int i = 0; i < kUnit; i += 4) rotate_four(x[i], x[i + 1], x[i + 2], x[i + 3]);
#pragma unroll
  for (int i = 0; i < 4; ++i) rotate_four(x[i], x[i + 4], x[i + 8], x[i + 12]);
}

// Where a warp's two rotations of 256 are turned over, so that a thread has numbers 16 apart in the place of
// neighbours: a row of 16 is followed by a gap, which keeps threads out of each other's way.
constexpr int kTurnedRow = kUnit + 1, kTurnedFloats = 2 * kUnit * kTurnedRow;
static_assert(fits_every_gpu(kMostThreads, kMostThreads / 32 * (kTurnedFloats + 1) * int64_t{sizeof(float)}));

/// Has the thread's numbers change places with those of its half of the warp.
__device__ inline void turn_over(float (&x)[kUnit], float* turned, int lane) {
  float* const own = turned + lane / kUnit * kUnit * kTurnedRow;
  const int at = lane % kUnit;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kUnit; ++i) own[at * kTurnedRow + i] = x[i];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kUnit; ++i) x[i] = own[i * kTurnedRow + at];
}

/// \return four numbers times `inverse`, rounded to 8 bits.
__device__ inline uint32_t four_bytes(float a, float b, float c, float d, float inverse) {
  const auto byte = [&](float x) { return static_cast<uint32_t>(__float2int_rn(x * inverse)) & 255u; };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}

/// A block has a row, a thread units of 16 numbers of it. Lanes without a unit take part in the rotation with zeros.
/// The rotation's factor, a power of 2, is left to the scale: no bit depends on when it is multiplied with.
/// \param kRotation 256, 16 or 0 (none)
template <int kRotation, int kUnits, class In>
__global__ void __launch_bounds__(kMostThreads)
    quantise_kernel(const In* x, int units, int8_t* numbers, float* scales) {
  extern __shared__ float turned_of_warps[];
  const int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  float* const turned = turned_of_warps + warp * kTurnedFloats;
  float values[kUnits][kUnit];
  // Magnitudes are ordered as their bits, with what is not finite above the rest.
  uint32_t largest_bits = 0;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    float(&own)[kUnit] = values[u];
    const int unit = u * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    if (unit < units) {
      const In* from = x + (row * units + unit) * kUnit;
#pragma unroll
      for (int i = 0; i < kUnit; i += 8) {
        float eight[8];
        load<8>(from + i, eight);
#pragma unroll
        for (int j = 0; j < 8; ++j) own[i + j] = eight[j];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i) own[i] = 0;
    }
    if constexpr (kRotation > 0) rotate_two_digits(own);
    if constexpr (kRotation == 256) {
      turn_over(own, turned, lane);
      rotate_two_digits(own);
    }
#pragma unroll
    for (int i = 0; i < kUnit; ++i) largest_bits = max(largest_bits, __float_as_uint(own[i]) & 0x7fffffffu);
  }
  __shared__ uint32_t largest_of_warp[kMostThreads / 32];
  for (int step = 16; step > 0; step /= 2)
    largest_bits = max(largest_bits, __shfl_xor_sync(kAllLanes, largest_bits, step));
  if (lane == 0) largest_of_warp[warp] = largest_bits;
  __syncthreads();
  for (int other = 0; other < static_cast<int>(blockDim.x) / 32; ++other)
    largest_bits = max(largest_bits, largest_of_warp[other]);
  const float largest = __uint_as_float(largest_bits);
  constexpr float kFactor = kRotation == 256 ? 1.f / 16 : kRotation == 16 ? 1.f / 4 : 1.f;
  if (threadIdx.x == 0) scales[row] = largest < kSmallestInt8Row ? 0.f : __fdiv_rn(largest * kFactor, 127.f);
  // Times 0 what is not finite is no number, which becomes 0 below.
  const float inverse = largest >= kSmallestInt8Row && isfinite(largest) ? __fdiv_rn(127.f, largest) : 0.f;
#pragma unroll
  for (int u = 0; u < kUnits; ++u) {
    float(&own)[kUnit] = values[u];
    const int unit = u * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x);
    uint4 words;
    if constexpr (kRotation == 256) {
      // The bytes go back to their places by way of shared memory.
      auto* const bytes = reinterpret_cast<uint8_t*>(turned) + lane / kUnit * 256;
      __syncwarp();
#pragma unroll
      for (int i = 0; i < kUnit; ++i)
        bytes[i * kUnit + lane % kUnit] = static_cast<uint8_t>(__float2int_rn(own[i] * inverse));
      __syncwarp();
      words = *reinterpret_cast<const uint4*>(bytes + lane % kUnit * kUnit);
    } else {
      words = {four_bytes(own[0], own[1], own[2], own[3], inverse), four_bytes(own[4], own[5], own[6], own[7], inverse),
               four_bytes(own[8], own[9], own[10], own[11], inverse),
               four_bytes(own[12], own[13], own[14], own[15], inverse)};
    }
    if (unit < units) reinterpret_cast<uint4*>(numbers)[row * units + unit] = words;
  }
}

template <class Body>
void with_count(int count, const Body& body) {
  switch (count) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    default:
      return body(std::integral_constant<int, 4>());
  }
}

}  // namespace

void run(OnCuda<quantise_rows>, Context& ctx, ConstView x, int64_t rotation, View numbers, View scales) {
  const int64_t rows = x.shape()[0];
  if (rows == 0) return;
  const int units = static_cast<int>(x.shape()[1] / kUnit), count = (units + kMostThreads - 1) / kMostThreads;
  nostos::check(count <= kMostUnits, "a row is rounded to 8 bits by one block");
  const int threads = (units + 32 * count - 1) / (32 * count) * 32;
  with_elements(x, [&]<class In>(const In* in) {
    with_count(count, [&](auto units_each) {
      const auto launch = [&](auto turns) {
        const int shared = turns == 256 ? threads / 32 * kTurnedFloats * int{sizeof(float)} : 0;
        quantise_kernel<turns, units_each, In><<<static_cast<unsigned>(rows), threads, shared, ctx.stream().handle()>>>(
            in, units, numbers.data<int8_t>(), scales.data<float>());
      };
      if (rotation == kWideRotation) launch(std::integral_constant<int, 256>());
      if (rotation == kNarrowRotation) launch(std::integral_constant<int, 16>());
      if (rotation == 0) launch(std::integral_constant<int, 0>());
      check_launch("quantise_rows");
    });
  });
}

}  // namespace nostos::ops
