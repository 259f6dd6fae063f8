// Owns the vectorised inner loops; compiled once per instruction set with NOSTOS_ISA naming the table.
#include "ops/cpu/row_kernels.h"

// Everything but the table is in the unnamed namespace and calls no library template: an inline function compiled here
// for AVX-512
// must never be the copy that the linker keeps for a CPU without it.
namespace nostos::cpu {
namespace {

inline void store(float value, float* out) { *out = value; }

inline void store(float value, bfloat16* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

constexpr float kRoundingMagic =
    12582912.f;  // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
constexpr float kLog2E = 1.44269504088896341f;

// Cephes' expf: x = n ln2 + r, a polynomial of degree 7 in r; relative error below 2e-7 on the clamped range.
inline float fast_exp(float x) {
  x = x < -87.3365f ? -87.3365f : x;
  x = x > 88.3762f ? 88.3762f : x;
  const float shifted = x * kLog2E + kRoundingMagic;
  const float n = shifted - kRoundingMagic;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.f;
  const int32_t exponent = __builtin_bit_cast(int32_t, shifted) - 0x4b400000 + 127;
  return y * __builtin_bit_cast(float, exponent << 23);
}

// 2^t for t <= 0: a minimax polynomial of degree 5 for the fraction, the integer added to the exponent; relative error
// below 2.5e-7
// (measured over the fraction's range). Results below 2^-126 come out as 2^-126.
inline float exp2_nonpositive(float t) {
  t = t < -126.f ? -126.f : t;
  const float shifted = t + kRoundingMagic;
  const float r = t - (shifted - kRoundingMagic);
  float p = 1.327647129e-3f;
  p = p * r + 9.675541893e-3f;
  p = p * r + 5.550713092e-2f;
  p = p * r + 2.402212024e-1f;
  p = p * r + 6.931469440e-1f;
  p = p * r + 1.f;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, p) + (__builtin_bit_cast(uint32_t, shifted) << 23));
}

// Rounding to nearest even for values that are no NaN but the default one, as the softmax's are.
inline void store_number(float value, float* out) { *out = value; }
inline void store_number(float value, bfloat16* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  out->bits = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float silu_of(float x) { return x / (1.f + fast_exp(-x)); }

inline float inverse_rms(const float* x, float eps, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return 1.f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
}

template <class Out>
void rms_norm(const float* x, const float* weight, const float* scale, float eps, int64_t n, Out* out) {
  const float inverse = inverse_rms(x, eps, n);
  if (scale != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(x[i] * inverse * weight[i] * scale[i], out + i);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) store(x[i] * inverse * weight[i], out + i);
  }
}

struct LayerStatistics {
  float mean, inverse_deviation;
};

inline LayerStatistics layer_statistics(const float* x, float eps, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const float mean = sum / static_cast<float>(n);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.f / __builtin_sqrtf(squares / static_cast<float>(n) + eps)};
}

template <class Out>
void layer_norm(const float* x, const float* scale, float eps, int64_t n, Out* out) {
  const LayerStatistics of = layer_statistics(x, eps, n);
  const float mean = of.mean, inverse = of.inverse_deviation;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store((x[i] - mean) * inverse * scale[i], out + i);
}

template <class Out>
void adaptive_norm(const float* x, const ScaleShift& by, float eps, int64_t n, Out* out) {
  const LayerStatistics of = layer_statistics(x, eps, n);
  const float mean = of.mean, inverse = of.inverse_deviation;
  const float* const scale = by.scale;
  const float* const shift = by.shift;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store((1.f + scale[i]) * ((x[i] - mean) * inverse) + shift[i], out + i);
}

template <class Out>
void rotate(const float* x, const HeadRotation& by, Out* out) {
  const float* const weight = by.weight;
  const float* const cos = by.cos;
  const float* const sin = by.sin;
  const int64_t half = by.half;
  const float inverse = weight != nullptr ? inverse_rms(x, by.eps, 2 * half) : 1.f;
  // `first` and `step` place pair i at (i * step, i * step + second).
  const int64_t step = by.pairs == ops::RotaryPairs::interleaved ? 2 : 1;
  const int64_t second = by.pairs == ops::RotaryPairs::interleaved ? 1 : half;
  if (weight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const int64_t at = i * step;
      const float a = x[at] * inverse * weight[at];
      const float b = x[at + second] * inverse * weight[at + second];
      store(a * cos[i] - b * sin[i], out + at);
      store(a * sin[i] + b * cos[i], out + at + second);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const int64_t at = i * step;
      store(x[at] * cos[i] - x[at + second] * sin[i], out + at);
      store(x[at] * sin[i] + x[at + second] * cos[i], out + at + second);
    }
  }
}

template <class Out>
void silu_mul(const float* gate, const float* up, int64_t n, Out* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(silu_of(gate[i]) * up[i], out + i);
}

template <class Out>
void silu(const float* x, int64_t n, Out* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(silu_of(x[i]), out + i);
}

template <class Out>
SoftmaxSum softmax_exp(const float* x, float scale, int64_t n, Out* out) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; ++i) top = top < x[i] ? x[i] : top;
  const float factor = scale * kLog2E;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    const float e = exp2_nonpositive((x[i] - top) * factor);
    sum += e;
    store_number(e, out + i);
  }
  return {top, sum};
}

template <class Out>
void scale(const float* x, float factor, int64_t n, Out* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(x[i] * factor, out + i);
}

template <class Out>
void affine(const float* x, const ChannelAffine& by, int64_t pixels, Out* out) {
  const float* const a = by.a;
  const float* const b = by.b;
  const int64_t channels = by.channels;
  for (int64_t p = 0; p < pixels; ++p, x += channels, out += channels) {
    if (by.silu) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) store(silu_of(x[c] * a[c] + b[c]), out + c);
    } else {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) store(x[c] * a[c] + b[c], out + c);
    }
  }
}

void add_gated_rms_norm(const float* projected, const float* weight, const float* gate, float eps, int64_t n,
                        float* x) {
  const float inverse = inverse_rms(projected, eps, n);
  if (gate != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] += gate[i] * (projected[i] * inverse * weight[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) x[i] += projected[i] * inverse * weight[i];
  }
}

void add_gated(const float* projected, const float* gate, int64_t n, float* x) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] += gate[i] * projected[i];
}

// Parts of a row whose sums stay in registers while the rows go by.
void add_weighted_rows(const float* rows, int64_t stride, const float* weights, int64_t count, int64_t n, float* x) {
  constexpr int64_t kPart = 64;
  for (; n >= kPart; n -= kPart, rows += kPart, x += kPart) {
    float sums[kPart] = {};
    for (int64_t j = 0; j < count; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < kPart; ++i) sums[i] += weights[j] * rows[j * stride + i];
    }
#pragma omp simd
    for (int64_t i = 0; i < kPart; ++i) x[i] += sums[i];
  }
  for (int64_t i = 0; i < n; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < count; ++j) sum += weights[j] * rows[j * stride + i];
    x[i] += sum;
  }
}

void channel_sums(const float* x, int64_t pixels, int64_t channels, double* sums, double* squares) {
  for (int64_t p = 0; p < pixels; ++p, x += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const double value = static_cast<double>(x[c]);
      sums[c] += value;
      squares[c] += value * value;
    }
  }
}

void bf16_to_f32(const bfloat16* x, int64_t n, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = __builtin_bit_cast(float, static_cast<uint32_t>(x[i].bits) << 16);
}

/// The product with H4, twice as large: each becomes the sum less twice the one that faces it.
inline void rotate_four(float& a, float& b, float& c, float& d) {
  const float sum = (a + b) + (c + d), of_a = sum - 2 * d, of_b = sum - 2 * c, of_c = sum - 2 * b;
  d = sum - 2 * a, a = of_a, b = of_b, c = of_c;
}

float rotate_blocks(float* x, int64_t n, int64_t rotation) {
  for (int64_t step = 1; step < rotation; step *= 4) {
    if (step == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; i += 4) rotate_four(x[i], x[i + 1], x[i + 2], x[i + 3]);
      continue;
    }
    for (int64_t begin = 0; begin < n; begin += 4 * step) {
      float *a = x + begin, *b = a + step, *c = b + step, *d = c + step;
#pragma omp simd
      for (int64_t i = 0; i < step; ++i) rotate_four(a[i], b[i], c[i], d[i]);
    }
  }
  // Magnitudes are ordered as their bits, with what is not finite above the rest.
  uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  __builtin_memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

void to_i8(const float* x, float factor, int64_t n, int8_t* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<int8_t>(__builtin_irintf(x[i] * factor));
}

int32_t dot_i8(const int8_t* x, const int8_t* y, int64_t n) {
  int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += int32_t{x[i]} * int32_t{y[i]};
  return sum;
}

void scale_sums(const int32_t* sums, float row, const float* columns, int64_t n, float* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    int32_t sum;
    __builtin_memcpy(&sum, sums + i, sizeof sum);
    out[i] = static_cast<float>(sum) * row * columns[i];
  }
}

template <class Out>
constexpr OutputKernels<Out> output_kernels() {
  return {rms_norm<Out>, layer_norm<Out>,  adaptive_norm<Out>, rotate<Out>, silu_mul<Out>,
          silu<Out>,     softmax_exp<Out>, scale<Out>,         affine<Out>};
}

}  // namespace

#define NOSTOS_TABLE_OF(isa) row_kernels_##isa
#define NOSTOS_TABLE(isa) NOSTOS_TABLE_OF(isa)
const RowKernels NOSTOS_TABLE(NOSTOS_ISA) = {output_kernels<float>(),
                                             output_kernels<bfloat16>(),
                                             add_gated_rms_norm,
                                             add_gated,
                                             add_weighted_rows,
                                             channel_sums,
                                             bf16_to_f32,
                                             rotate_blocks,
                                             to_i8,
                                             dot_i8,
                                             scale_sums};

}  // namespace nostos::cpu
