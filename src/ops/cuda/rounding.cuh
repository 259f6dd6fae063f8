// Owns the rotation of rows in blocks of 256 and their rounding to 8 bits, as kernels share them: see quantise_rows().
#pragma once

#include <cstdint>

#include "ops/cuda/device_math.cuh"
#include "ops/int8_linear.h"

namespace nostos::cuda {

/// Neighbouring numbers of a row that a thread has.
inline constexpr int kRoundedUnit = 16;

/// The product with H4, twice as large: each becomes the sum less twice the one that faces it.
__device__ inline void rotate_four(float& a, float& b, float& c, float& d) {
  const float sum = (a + b) + (c + d);
  const float facing[] = {d, c, b, a};
  a = sum - 2 * facing[0], b = sum - 2 * facing[1], c = sum - 2 * facing[2], d = sum - 2 * facing[3];
}

/// The products with H4 of the lowest two digits of 16 neighbours' indices to the base 4.
__device__ inline void rotate_two_digits(float (&x)[kRoundedUnit]) {
#pragma unroll
  for (int i = 0; i < kRoundedUnit; i += 4) rotate_four(x[i], x[i + 1], x[i + 2], x[i + 3]);
#pragma unroll
  for (int i = 0; i < 4; ++i) rotate_four(x[i], x[i + 4], x[i + 8], x[i + 12]);
}

/// \return the bits of the largest magnitude, or `bits` where they are more: magnitudes are ordered as their bits, with
/// what is not finite above the rest.
__device__ inline uint32_t largest_magnitude(const float (&x)[kRoundedUnit], uint32_t bits = 0) {
#pragma unroll
  for (int i = 0; i < kRoundedUnit; ++i) bits = max(bits, __float_as_uint(x[i]) & 0x7fffffffu);
  return bits;
}

/// \return the largest of the block's values, in all threads. \param partial shared, one for each warp. It synchronises
/// the block once; who calls it in a loop takes turns with two arrays.
__device__ inline uint32_t block_largest(uint32_t value, uint32_t* partial) {
  value = __reduce_max_sync(kAllLanes, value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
  return __reduce_max_sync(kAllLanes, partial[lane < warps ? lane : 0]);
}

/// What makes 8-bit numbers of a rotated row.
struct RowRounding {
  float scale;
  float inverse;  ///< 0: all numbers are 0

  /// \param largest_bits of the row, whose numbers are kLarger times as large as the rotation makes them
  template <int kLarger>
  __device__ static RowRounding of(uint32_t largest_bits) {
    const float largest = __uint_as_float(largest_bits);
    const bool is_some = largest >= ops::kSmallestInt8Row;
    // A scale of what is not finite is not finite either.
    return {largest < ops::kSmallestInt8Row ? 0.f : __fdiv_rn(largest * (1.f / kLarger), 127.f),
            is_some && isfinite(largest) ? __fdiv_rn(127.f, largest) : 0.f};
  }
  /// \return four numbers in the bytes of a word, rounded to the nearest, halves to even.
  __device__ uint32_t operator()(float a, float b, float c, float d) const {
    // The sum with 1.5 * 2^23 has the whole number in its lowest bits.
    const auto bits = [&](float x) { return __float_as_uint(__fadd_rn(__fmul_rn(x, inverse), 0x1.8p23f)); };
    const uint32_t word =
        __byte_perm(__byte_perm(bits(a), bits(b), 0x0040), __byte_perm(bits(c), bits(d), 0x0040), 0x5410);
    return inverse == 0 ? 0 : word;
  }
};

/// Two rotations of 256 in a warp, 16 lanes each, which have its units in their order. The factor of 1/16 is left to
/// the scale: no bit depends on when a power of 2 is multiplied with.
/// \param kInTurn whether lanes of even number have the first rotation, and else the lower lanes
template <bool kInTurn>
struct WarpRotation {
  static constexpr int kLarger = 16;
  // Where units are turned over, so that a thread has numbers 16 apart in the place of neighbours: a row of 16 is
  // followed by a gap, which keeps threads out of each other's way.
  static constexpr int kTurnedRow = kRoundedUnit + 1, kFloats = 2 * kRoundedUnit * kTurnedRow;

  float* turned;  ///< shared, kFloats of each warp
  int which, unit;

  __device__ explicit WarpRotation(float* of_warp)
      : turned(of_warp),
        which(static_cast<int>(kInTurn ? threadIdx.x % 2 : threadIdx.x % 32 / kRoundedUnit)),
        unit(static_cast<int>(kInTurn ? threadIdx.x % 32 / 2 : threadIdx.x % kRoundedUnit)) {}

  /// Rotates; numbers are left turned over, as write() takes them.
  __device__ void rotate(float (&x)[kRoundedUnit]) const {
    rotate_two_digits(x);
    float* const own = turned + which * kRoundedUnit * kTurnedRow;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRoundedUnit; ++i) own[unit * kTurnedRow + i] = x[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kRoundedUnit; ++i) x[i] = own[i * kTurnedRow + unit];
    rotate_two_digits(x);
  }

  /// Writes the rounded numbers of a rotation where `present`. All lanes take part. \param to the rotation's 64 words
  __device__ void write(const float (&x)[kRoundedUnit], const RowRounding& rounded, uint32_t* to, bool present) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint32_t word = neighbours(rounded(x[4 * k], x[4 * k + 1], x[4 * k + 2], x[4 * k + 3]));
      if (present) to[16 * k + 4 * (unit % 4) + unit / 4] = word;
    }
  }

 private:
  /// Has four neighbouring units change bytes, so that unit i gets byte i of each.
  __device__ uint32_t neighbours(uint32_t own) const {
    constexpr int kNext = kInTurn ? 2 : 1;  // lanes to the next unit
    uint32_t other = __shfl_xor_sync(kAllLanes, own, 2 * kNext);
    own = __byte_perm(own, other, (unit & 2) != 0 ? 0x3276 : 0x5410);
    other = __shfl_xor_sync(kAllLanes, own, kNext);
    return __byte_perm(own, other, (unit & 1) != 0 ? 0x3715 : 0x6240);
  }
};

}  // namespace nostos::cuda
