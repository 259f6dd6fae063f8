// Owns the table of vectorised inner loops, one table per instruction set.
#pragma once

#include <cstdint>

#include "ops/attention.h"
#include "tensor/bfloat16.h"

namespace nostos::cpu {

/// What normalises a row of softmax.
struct SoftmaxSum {
  float top;  ///< the largest score, unscaled
  float sum;  ///< of the exponentials, float32, before they were rounded to the output's type
};

/// What is done to one token's heads.
struct HeadRotation {
  const float* weight;  ///< of an RMSNorm before, or null for none
  float eps;
  const float *cos, *sin;  ///< of `half` pairs
  int64_t half;
  ops::RotaryPairs pairs;
};

/// What is done to the channels of pixels: x * a + b, then SiLU if wanted.
struct ChannelAffine {
  const float *a, *b;
  int64_t channels;
  bool silu;
};

/// What is done to a normalised row: (1 + scale) * x + shift.
struct ScaleShift {
  const float *scale, *shift;
};

/// Loops that end in an element type of the caller's choice (float or bfloat16). Pointers never alias unless said.
template <class Out>
struct OutputKernels {
  /// out = x / sqrt(mean(x^2) + eps) * weight [* scale if not null], n elements.
  void (*rms_norm)(const float* x, const float* weight, const float* scale, float eps, int64_t n, Out* out);
  /// out = (x - mean) / sqrt(var + eps) * scale, n elements.
  void (*layer_norm)(const float* x, const float* scale, float eps, int64_t n, Out* out);
  /// out = (1 + scale) * (x - mean) / sqrt(var + eps) + shift, n elements.
  void (*adaptive_norm)(const float* x, const ScaleShift& by, float eps, int64_t n, Out* out);
  /// One head.
  void (*rotate)(const float* x, const HeadRotation& by, Out* out);
  /// out = silu(gate) * up, n elements.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, Out* out);
  void (*silu)(const float* x, int64_t n, Out* out);
  /// out = exp(scale * (x - max x)), n >= 1 elements.
  SoftmaxSum (*softmax_exp)(const float* x, float scale, int64_t n, Out* out);
  /// out = x * factor, n elements.
  void (*scale)(const float* x, float factor, int64_t n, Out* out);
  void (*affine)(const float* x, const ChannelAffine& by, int64_t pixels, Out* out);
};

struct RowKernels {
  OutputKernels<float> to_f32;
  OutputKernels<bfloat16> to_bf16;
  /// x += gate * rms_norm(projected) * weight, n elements; gate may be null.
  void (*add_gated_rms_norm)(const float* projected, const float* weight, const float* gate, float eps, int64_t n,
                             float* x);
  /// x += gate * projected, n elements.
  void (*add_gated)(const float* projected, const float* gate, int64_t n, float* x);
  /// x += the sum over j < count of weights[j] * rows[j * stride + ...], in that order, n elements.
  void (*add_weighted_rows)(const float* rows, int64_t stride, const float* weights, int64_t count, int64_t n,
                            float* x);
  /// Adds the sums and sums of squares over `pixels` of each channel to sums[channels] and squares[channels].
  void (*channel_sums)(const float* x, int64_t pixels, int64_t channels, double* sums, double* squares);
  void (*bf16_to_f32)(const bfloat16* x, int64_t n, float* out);
  /// Rotates blocks of `rotation` numbers in place as ops::quantise_rows(), but for the rotation's factor, n elements.
  /// \return the largest magnitude, not finite if a number is not
  float (*rotate_blocks)(float* x, int64_t n, int64_t rotation);
  /// out = x * factor to the nearest, halves to even, within 8 bits, n elements.
  void (*to_i8)(const float* x, float factor, int64_t n, int8_t* out);
  /// \return the sum of x * y, n elements.
  int32_t (*dot_i8)(const int8_t* x, const int8_t* y, int64_t n);
  /// out = sums * row * columns, multiplied in this order, n elements; out may be where the sums are.
  void (*scale_sums)(const int32_t* sums, float row, const float* columns, int64_t n, float* out);

  template <class Out>
  const OutputKernels<Out>& of() const {
    if constexpr (sizeof(Out) == sizeof(float))
      return to_f32;
    else
      return to_bf16;
  }
};

extern const RowKernels row_kernels_baseline;
extern const RowKernels row_kernels_avx2;
extern const RowKernels row_kernels_avx512;

/// \return the table of the best instruction set that this CPU runs and ONEDNN_MAX_CPU_ISA allows (AVX2 limits both).
const RowKernels& row_kernels();

}  // namespace nostos::cpu
