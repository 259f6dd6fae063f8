// Owns what CUDA kernels share: vectors of elements, sums in a fixed order, SiLU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "tensor/bfloat16.h"

namespace nostos::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// An IEEE half as it lies in a checkpoint.
struct Half {
  uint16_t bits;
};

__device__ inline float as_float(float value) { return value; }
__device__ inline float as_float(bfloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }
__device__ inline float as_float(Half value) { return __half2float(__ushort_as_half(value.bits)); }

__device__ inline void put(float value, float* to) { *to = value; }
__device__ inline void put(float value, bfloat16* to) { to->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

/// Rounds as to_bfloat16(): NaN keeps its payload.
__device__ inline void put_exactly(float value, float* to) { *to = value; }
__device__ inline void put_exactly(float value, bfloat16* to) {
  const uint32_t bits = __float_as_uint(value);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to->bits = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// V elements of T as they lie in memory: one element, or 8 to 32 aligned bytes. Reading ahead costs fewest registers
/// in this form.
template <class T, int V>
struct Raw {
  static constexpr int kWords = V * static_cast<int>(sizeof(T)) / 4;
  uint32_t words[kWords];

  /// Reads past the L1 cache, for what is read once.
  __device__ void load(const T* from) {
    if constexpr (kWords == 2) {
      const uint2 pair = __ldcg(reinterpret_cast<const uint2*>(from));
      words[0] = pair.x, words[1] = pair.y;
    } else {
      static_assert(kWords % 4 == 0);
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        const uint4 quad = __ldcg(reinterpret_cast<const uint4*>(from) + i / 4);
        words[i] = quad.x, words[i + 1] = quad.y, words[i + 2] = quad.z, words[i + 3] = quad.w;
      }
    }
  }
  __device__ void clear() {
#pragma unroll
    for (uint32_t& word : words) word = 0;
  }
  __device__ void unpack(float (&values)[V]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4) {
        values[i] = __uint_as_float(words[i]);
      } else if constexpr (std::is_same_v<T, Half>) {
        values[2 * i] = as_float(Half{static_cast<uint16_t>(words[i])});
        values[2 * i + 1] = as_float(Half{static_cast<uint16_t>(words[i] >> 16)});
      } else {
        values[2 * i] = __uint_as_float(words[i] << 16);
        values[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
      }
    }
  }
};

template <class T>
struct Raw<T, 1> {
  T value;
  __device__ void load(const T* from) { value = *from; }
  __device__ void clear() { value = T{}; }
  __device__ void unpack(float (&values)[1]) const { values[0] = as_float(value); }
};

template <int V, class T>
__device__ inline void load(const T* from, float (&values)[V]) {
  Raw<T, V> raw;
  raw.load(from);
  raw.unpack(values);
}

/// Writes V elements, one or 16 or 32 aligned bytes.
template <int V, class T>
__device__ inline void store(const float (&values)[V], T* to) {
  if constexpr (V == 1) {
    put(values[0], to);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < V / 4; ++i) {
      reinterpret_cast<float4*>(to)[i] =
          make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    }
  } else {
    static_assert(V == 8);
    *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]),
                                               pack_bf16(values[4], values[5]), pack_bf16(values[6], values[7]));
  }
}

/// x / (1 + exp(-x)); to bf16 the division may err by 2 ulp of float32.
template <class Out>
__device__ inline float silu_of(float x) {
  const float denominator = 1.f + expf(-x);
  if constexpr (sizeof(Out) == 4)
    return x / denominator;
  else
    return __fdividef(x, denominator);
}

/// \return the sum over `lanes` neighbouring lanes (a power of two), in each of them.
template <class T>
__device__ inline T lane_sum(T value, int lanes) {
  for (int offset = 1; offset < lanes; offset *= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

/// \return the sum over the block, in every thread. \param partial one value a warp; may be used again after another
/// barrier.
template <class T>
__device__ inline T block_sum(T value, T* partial) {
  value = lane_sum(value, 32);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  T sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
  return sum;
}

}  // namespace nostos::cuda
