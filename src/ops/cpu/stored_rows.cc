// Owns the loops over rows of stored numbers; compiled once per instruction set with NOSTOS_ISA naming the table.
#include "ops/cpu/stored_rows.h"

#ifdef __SSSE3__
#include <tmmintrin.h>
#endif

// Everything but the table is in the unnamed namespace and calls no library template: see row_kernels.cc.
namespace nostos::cpu {
namespace {

using Bytes = uint8_t __attribute__((vector_size(16)));
constexpr int kLanes = 16;
// As many numbers as the instruction set has in a vector: g++ 12 takes longer vectors apart.
#if defined(__AVX512F__)
constexpr int kWide = 16;
#elif defined(__AVX2__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
using Narrow = uint8_t __attribute__((vector_size(kWide)));
using Halves = uint16_t __attribute__((vector_size(2 * kWide)));
using Words = uint32_t __attribute__((vector_size(4 * kWide)));
using Floats = float __attribute__((vector_size(4 * kWide)));

/// \return bytes whose lowest bits are the bits of `byte`, the lowest first.
constexpr uint64_t spread_bits(uint64_t byte) {
  const uint64_t each = (byte * 0x0101010101010101u) & 0x8040201008040201u;
  return ((each + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
}

/// Reads a block 16 bytes at a time, from any alignment.
struct Reader {
  const uint8_t* at;

  Bytes lanes(int offset) const {
    Bytes bytes;
    __builtin_memcpy(&bytes, at + offset, sizeof bytes);
    return bytes;
  }
  Bytes bit_lanes(int offset, int first) const {
    const uint8_t* const bits = at + offset + first / 8;
    return pair(spread_bits(bits[0]), spread_bits(bits[1]));
  }
  int byte(int offset) const { return at[offset]; }
  uint32_t word(int offset) const {
    uint32_t bytes;
    __builtin_memcpy(&bytes, at + offset, sizeof bytes);
    return bytes;
  }
  float half(int offset) const { return half_to_float(at[offset] | static_cast<uint32_t>(at[offset + 1]) << 8); }

  static Bytes splat(uint8_t byte) { return Bytes{} + byte; }
  static Bytes chosen(Bytes indices) {
    const Bytes table = pair(kLowIq4Numbers, kHighIq4Numbers);
#ifdef __SSSE3__
    return reinterpret_cast<Bytes>(
        _mm_shuffle_epi8(reinterpret_cast<__m128i>(table), reinterpret_cast<__m128i>(indices)));
#else
    Bytes found;
    for (int i = 0; i < kLanes; ++i) found[i] = table[indices[i]];
    return found;
#endif
  }

 private:
  static Bytes pair(uint64_t low, uint64_t high) {
    using Pair = uint64_t __attribute__((vector_size(16)));
    return reinterpret_cast<Bytes>(Pair{low, high});
  }
};

inline void store(float value, float* out) { *out = value; }

inline void store(float value, bfloat16* out) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

inline void store(const Floats& values, float* out) { __builtin_memcpy(out, &values, sizeof values); }
inline void store(const Floats& values, bfloat16* out) {
  const Words bits = reinterpret_cast<Words>(values);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words quiet_nan = (bits >> 16) | 0x40u;
  const Halves halves = __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded, Halves);
  __builtin_memcpy(out, &halves, sizeof halves);
}

template <StoredType kType, class Out>
void block_row(const uint8_t* row, int64_t n, float scale, Out* out) {
  using OneBlock = Block<kType, Reader>;
  for (int64_t begin = 0; begin < n; begin += OneBlock::kElements, row += OneBlock::kBytes) {
    const OneBlock block{{Reader{row}}};
    for (int group = 0; group < OneBlock::kElements / OneBlock::kGroup; ++group) {
      const GroupScale by = block.scale(group);
      for (int first = 0; first < OneBlock::kGroup; first += kLanes) {
        const Bytes lanes = block.numbers(group, first);
        uint8_t bytes[kLanes];
        __builtin_memcpy(bytes, &lanes, sizeof bytes);
        for (int at = 0; at < kLanes; at += kWide) {
          Narrow some;
          __builtin_memcpy(&some, bytes + at, sizeof some);
          Floats values = reinterpret_cast<Floats>(__builtin_convertvector(some, Words) | 0x4b000000u) -
                          (0x1p23f + static_cast<float>(OneBlock::kBias));
          values *= by.factor;
          if constexpr (OneBlock::kHasOffset) values += by.offset;
          store(values * scale, out + begin + group * OneBlock::kGroup + first + at);
        }
      }
    }
  }
}

template <StoredType kType, class Out>
void single_row(const uint8_t* row, int64_t n, float scale, Out* out) {
  using Bits = typename Single<kType>::Bits;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    __builtin_memcpy(&bits, row + i * static_cast<int64_t>(sizeof bits), sizeof bits);
    store(scaled(Single<kType>::value(bits), scale), out + i);
  }
}

template <class In>
void rotate_digits(const In* x, int numbers, int32_t* out) {
#pragma omp simd
  for (int i = 0; i < numbers / 4; ++i) rotate_digit(x, numbers / 4, i, out + 4 * i);
}

template <class Out>
void rotated_row(const uint8_t* row, int64_t n, int rotation, float scale, Out* out) {
  int32_t sums[2][kMostRotation];
  const float factor = rotation_factor(rotation);
  for (int64_t begin = 0; begin < n; begin += rotation) {
    int current = 0;
    rotate_digits(reinterpret_cast<const int8_t*>(row + begin), rotation, sums[current]);
    for (int numbers = rotation; numbers > 4; numbers /= 4, current = 1 - current)
      rotate_digits(sums[current], rotation, sums[1 - current]);
    const int32_t* const from = sums[current];
    Out* const to = out + begin;
    // The factor is a power of two, and the sum has less than 24 bits: their product is exact.
#pragma omp simd
    for (int i = 0; i < rotation; ++i) store(static_cast<float>(from[i]) * factor * scale, to + i);
  }
}

template <class Out>
constexpr StoredRowKernels<Out> kernels() {
  return {{single_row<StoredType::f32, Out>, single_row<StoredType::f16, Out>, single_row<StoredType::bf16, Out>,
           single_row<StoredType::f8_e4m3, Out>, single_row<StoredType::f8_e5m2, Out>, single_row<StoredType::i8, Out>,
           block_row<StoredType::q4_0, Out>, block_row<StoredType::q4_1, Out>, block_row<StoredType::q5_0, Out>,
           block_row<StoredType::q5_1, Out>, block_row<StoredType::q8_0, Out>, block_row<StoredType::q2_k, Out>,
           block_row<StoredType::q3_k, Out>, block_row<StoredType::q4_k, Out>, block_row<StoredType::q5_k, Out>,
           block_row<StoredType::q6_k, Out>, block_row<StoredType::iq4_nl, Out>, block_row<StoredType::iq4_xs, Out>},
          rotated_row<Out>};
}

}  // namespace

#define NOSTOS_TABLE_OF(isa) stored_rows_##isa
#define NOSTOS_TABLE(isa) NOSTOS_TABLE_OF(isa)
const StoredRows NOSTOS_TABLE(NOSTOS_ISA) = {kernels<float>(), kernels<bfloat16>()};

}  // namespace nostos::cpu
