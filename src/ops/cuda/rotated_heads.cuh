// Owns what is done to a head in a thread's registers before it is attended to: its norm and its rotation.
#pragma once

#include "ops/attention.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"

namespace nostos::cuda {

struct Rotary {
  const float* q_norm;  ///< or null, as k_norm
  const float* k_norm;
  const float* cos;  ///< or null, as sin
  const float* sin;
  float eps;
};

inline Rotary rotary_of(const ops::RotaryHeads& given) {
  return {optional_data<float>(given.q_norm), optional_data<float>(given.k_norm), optional_data<float>(given.cos),
          optional_data<float>(given.sin), given.eps};
}

/// Reads vector `lane` of a head's norm, or another row of floats, through the L1 cache: every head needs it again.
__device__ inline void load_cached(const float* norm, int lane, float (&values)[kVector]) {
  const float4 low = __ldg(reinterpret_cast<const float4*>(norm) + 2 * lane);
  const float4 high = __ldg(reinterpret_cast<const float4*>(norm) + 2 * lane + 1);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

/// Norm and rotation of a token's heads, of which `lanes` neighbouring threads have kVector elements each. All of a
/// warp calls it.
template <bool kInterleaved>
struct HeadRotation {
  // The angles of this thread's elements: one for each pair, or one for each element of its half.
  static constexpr int kAngles = kInterleaved ? kVector / 2 : kVector;
  float cosine[kAngles], sine[kAngles];
  int lanes, lane;
  bool second_half;

  __device__ HeadRotation(const Rotary& rotary, int64_t token, int lanes_, int lane_)
      : lanes(lanes_), lane(lane_), second_half(!kInterleaved && lane_ >= lanes_ / 2) {
    if (rotary.cos == nullptr) return;
    const int first_angle = kInterleaved ? lane * kAngles : lane % (lanes / 2) * kAngles;
    const int64_t at = token * (lanes * kVector / 2) + first_angle;
    load<kAngles>(rotary.cos + at, cosine);
    load<kAngles>(rotary.sin + at, sine);
  }

  /// x <- its RMSNorm, where `wanted`.
  __device__ void norm(float (&x)[kVector], const float* norm_weight, float eps, bool wanted) const {
    float squares = 0, weight[kVector];
    load_cached(norm_weight, lane, weight);
#pragma unroll
    for (float value : x) squares += value * value;
    const float inverse = rsqrtf(lane_sum(squares, lanes) / static_cast<float>(lanes * kVector) + eps);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = wanted ? x[i] * inverse * weight[i] : x[i];
  }

  /// x <- x rotated, where `wanted`.
  __device__ void rotate(float (&x)[kVector], bool wanted) const {
    if constexpr (kInterleaved) {
      if (!wanted) return;
#pragma unroll
      for (int i = 0; i < kVector; i += 2) {
        const float a = x[i], b = x[i + 1];
        x[i] = a * cosine[i / 2] - b * sine[i / 2];
        x[i + 1] = a * sine[i / 2] + b * cosine[i / 2];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const float other = __shfl_xor_sync(kAllLanes, x[i], lanes / 2);
        if (!wanted) continue;
        x[i] = second_half ? other * sine[i] + x[i] * cosine[i] : x[i] * cosine[i] - other * sine[i];
      }
    }
  }
};

}  // namespace nostos::cuda
