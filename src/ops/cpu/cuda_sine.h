// Owns the fast sine and cosine of NVIDIA GPUs, computed on the host.
#pragma once

#include <cstdint>

namespace nostos {

struct SinCos {
  float sin, cos;
};

/// Sine and cosine of `angle` in [0, 2 pi] radians as CUDA's __sincosf gives them, bit for bit: compared with an H100
/// (compute capability 9.0) on every float in [2^-33, 6.2831855]. Their error is up to 4e-7, which libm's functions
/// would show as noise.
SinCos cuda_sincos(float angle);

}  // namespace nostos
