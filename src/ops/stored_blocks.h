// Owns how stored numbers are read: the layouts of GGUF's blocks, and plain numbers. One description serves the
// kernels of every device, each with a reader of its own: how many bytes it takes at once, and from what alignment.
// Source: ggml-common.h of ggml, for block_q4_0 and the others.
#pragma once

#include <cstdint>

#include "tensor/half.h"
#include "tensor/weight_format.h"

namespace nostos {

/// How many StoredTypes there are.
inline constexpr int kStoredTypes = static_cast<int>(StoredType::iq4_xs) + 1;

// All that follows is in the unnamed namespace: an inline function that is compiled for AVX-512 must never be the copy
// that the linker keeps for a CPU without it. It is constexpr so that nvcc takes it for a GPU, too.
namespace {

constexpr float as_number(uint32_t bits) { return __builtin_bit_cast(float, bits); }

/// \return `number` * `scale`; NaN stays the NaN that it is, on every device.
constexpr float scaled(float number, float scale) { return number != number ? number : number * scale; }

/// 2^23 as float32, in whose lowest bits whole numbers have their own.
constexpr uint32_t kWholeNumberBits = 0x4b000000u;

/// \return `byte` - `bias` of kWholeNumberBits | byte, exact.
constexpr float whole_number_of(uint32_t bits, int bias) {
  return as_number(bits) - (0x1p23f + static_cast<float>(bias));
}

/// \return `byte` - `bias`, exact.
constexpr float whole_number(uint32_t byte, int bias) { return whole_number_of(kWholeNumberBits | byte, bias); }

/// 128 + the 16 numbers among which iq4 chooses, eight in bytes from the lowest on, then eight more. (No array: a GPU's
/// code has values of constants, but not their memory.)
constexpr uint64_t kLowIq4Numbers = 0x766a5d4f3f2d1801u, kHighIq4Numbers = 0xf1d9c5b5a6998d81u;

/// What numbers of a group have in common: each is factor * whole number + offset.
struct GroupScale {
  float factor, offset;
};

/// A block of one type. It has
/// * kElements numbers in kBytes bytes, and groups of kGroup that have a scale in common;
/// * kTwin: a reader that takes one number takes with it the bits of the one so many further on (where a byte holds one
///   number, that is none's), for numbers whose place has that bit 0;
/// * scale(group), whose offset is used where kHasOffset;
/// * numbers(group, first): whole numbers + kBias in bytes, as many as Reader takes at once.
/// A reader has lanes(offset), so many bytes of the block; bit_lanes(offset, first), so many bits, one a byte; byte();
/// word(), of four bytes; half(), as float32; splat(byte), the byte in each lane; chosen(lanes), the numbers of iq4.
template <StoredType kType, class Reader>
struct Block;

template <class Reader, class Lanes>
constexpr Lanes bits_of(Lanes lanes, int shift, int mask) {
  return (lanes >> static_cast<uint8_t>(shift)) & Reader::splat(static_cast<uint8_t>(mask));
}

template <class Reader>
struct SmallBlock {
  static constexpr int kElements = 32, kGroup = 32, kTwin = 16;
  Reader block;

  /// \return the 4-bit numbers of 16 bytes: the lower halves, then the upper ones.
  constexpr auto nibbles(int offset, int first) const {
    return bits_of<Reader>(block.lanes(offset + first % 16), first / 16 * 4, 0x0f);
  }
};

template <class Reader>
struct Block<StoredType::q4_0, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 18, kBias = 8;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(0);
  constexpr GroupScale scale(int) const { return {d, 0}; }
  constexpr auto numbers(int, int first) const { return this->nibbles(2, first); }
};

template <class Reader>
struct Block<StoredType::q4_1, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 20, kBias = 0;
  static constexpr bool kHasOffset = true;
  float d = this->block.half(0), m = this->block.half(2);
  constexpr GroupScale scale(int) const { return {d, m}; }
  constexpr auto numbers(int, int first) const { return this->nibbles(4, first); }
};

template <class Reader>
struct Block<StoredType::q5_0, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 22, kBias = 16;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(0);
  constexpr GroupScale scale(int) const { return {d, 0}; }
  constexpr auto numbers(int, int first) const {
    return this->nibbles(6, first) | this->block.bit_lanes(2, first) << uint8_t{4};
  }
};

template <class Reader>
struct Block<StoredType::q5_1, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 24, kBias = 0;
  static constexpr bool kHasOffset = true;
  float d = this->block.half(0), m = this->block.half(2);
  constexpr GroupScale scale(int) const { return {d, m}; }
  constexpr auto numbers(int, int first) const {
    return this->nibbles(8, first) | this->block.bit_lanes(4, first) << uint8_t{4};
  }
};

template <class Reader>
struct Block<StoredType::q8_0, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 34, kBias = 128;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(0);
  constexpr GroupScale scale(int) const { return {d, 0}; }
  constexpr auto numbers(int, int first) const { return this->block.lanes(2 + first) ^ Reader::splat(0x80); }
};

template <class Reader>
struct Block<StoredType::iq4_nl, Reader> : SmallBlock<Reader> {
  static constexpr int kBytes = 18, kBias = 128;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(0);
  constexpr GroupScale scale(int) const { return {d, 0}; }
  constexpr auto numbers(int, int first) const { return Reader::chosen(this->nibbles(2, first)); }
};

template <class Reader, int kGroupElements, int kTwinElements>
struct LargeBlock {
  static constexpr int kElements = 256, kGroup = kGroupElements, kTwin = kTwinElements;
  Reader block;

  /// \return 2-bit numbers: of 128 numbers, 32 bytes hold each quarter of 32 in two bits from the lowest on.
  constexpr auto pairs(int offset, int group, int first) const {
    return bits_of<Reader>(block.lanes(offset + group / 8 * 32 + group % 2 * 16 + first), group % 8 / 2 * 2, 0x03);
  }
  /// \return the 4-bit numbers of 32 bytes for two groups of 32: the lower halves, then the upper ones.
  constexpr auto nibbles(int offset, int group, int first) const {
    return bits_of<Reader>(block.lanes(offset + group / 2 * 32 + first), group % 2 * 4, 0x0f);
  }
  /// \return factor and offset of a group of 32 from the 6-bit numbers of 12 bytes at 4: four factors and four offsets
  /// in the lower bits, whose upper bits belong to four factors and four offsets more, of which the last bytes have the
  /// rest.
  constexpr GroupScale six_bit_scale(int group, float d, float dmin) const {
    constexpr uint32_t kRest = 0x0f0f0f0f, kUpper = 0x30303030, kAll = kRest | kUpper;
    const uint32_t factors = block.word(4), offsets = block.word(8), rest = block.word(12);
    const bool is_first = group / 4 == 0;
    const uint32_t sc = is_first ? factors & kAll : (rest & kRest) | (factors >> 2 & kUpper);
    const uint32_t m = is_first ? offsets & kAll : (rest >> 4 & kRest) | (offsets >> 2 & kUpper);
    const int shift = group % 4 * 8;
    return {d * whole_number(sc >> shift & 0xff, 0), -(dmin * whole_number(m >> shift & 0xff, 0))};
  }
};

template <class Reader>
struct Block<StoredType::q2_k, Reader> : LargeBlock<Reader, 16, 32> {
  static constexpr int kBytes = 84, kBias = 0;
  static constexpr bool kHasOffset = true;
  float d = this->block.half(80), dmin = this->block.half(82);
  constexpr GroupScale scale(int group) const {
    const auto both = static_cast<uint32_t>(this->block.byte(group));
    return {d * whole_number(both & 0x0f, 0), -(dmin * whole_number(both >> 4, 0))};
  }
  constexpr auto numbers(int group, int first) const { return this->pairs(16, group, first); }
};

template <class Reader>
struct Block<StoredType::q3_k, Reader> : LargeBlock<Reader, 16, 32> {
  static constexpr int kBytes = 110, kBias = 4;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(108);
  constexpr GroupScale scale(int group) const {
    const int low = this->block.byte(96 + group % 8) >> (group / 8 * 4) & 0x0f;
    const int high = this->block.byte(104 + group % 4) >> (group / 4 * 2) & 0x03;
    return {d * whole_number(static_cast<uint32_t>(low | high << 4), 32), 0};
  }
  constexpr auto numbers(int group, int first) const {
    const auto high = bits_of<Reader>(this->block.lanes(group % 2 * 16 + first), group / 2, 0x01);
    return this->pairs(32, group, first) | high << uint8_t{2};
  }
};

template <class Reader>
struct Block<StoredType::q4_k, Reader> : LargeBlock<Reader, 32, 32> {
  static constexpr int kBytes = 144, kBias = 0;
  static constexpr bool kHasOffset = true;
  float d = this->block.half(0), dmin = this->block.half(2);
  constexpr GroupScale scale(int group) const { return this->six_bit_scale(group, d, dmin); }
  constexpr auto numbers(int group, int first) const { return this->nibbles(16, group, first); }
};

template <class Reader>
struct Block<StoredType::q5_k, Reader> : LargeBlock<Reader, 32, 32> {
  static constexpr int kBytes = 176, kBias = 0;
  static constexpr bool kHasOffset = true;
  float d = this->block.half(0), dmin = this->block.half(2);
  constexpr GroupScale scale(int group) const { return this->six_bit_scale(group, d, dmin); }
  constexpr auto numbers(int group, int first) const {
    const auto high = bits_of<Reader>(this->block.lanes(16 + first), group, 0x01);
    return this->nibbles(48, group, first) | high << uint8_t{4};
  }
};

template <class Reader>
struct Block<StoredType::q6_k, Reader> : LargeBlock<Reader, 16, 64> {
  static constexpr int kBytes = 210, kBias = 32;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(208);
  constexpr GroupScale scale(int group) const {
    return {d * whole_number(static_cast<uint32_t>(this->block.byte(192 + group)) ^ 0x80, 128), 0};
  }
  // Of 128 numbers, 64 bytes hold the lower 4 bits of the first and of the second half.
  constexpr auto numbers(int group, int first) const {
    const int low_at = group / 8 * 64 + group % 4 * 16 + first;
    const auto low = bits_of<Reader>(this->block.lanes(low_at), group % 8 / 4 * 4, 0x0f);
    return low | this->pairs(128, group, first) << uint8_t{4};
  }
};

template <class Reader>
struct Block<StoredType::iq4_xs, Reader> : LargeBlock<Reader, 32, 16> {
  static constexpr int kBytes = 136, kBias = 128;
  static constexpr bool kHasOffset = false;
  float d = this->block.half(0);
  constexpr GroupScale scale(int group) const {
    const int low = this->block.byte(4 + group / 2) >> (group % 2 * 4) & 0x0f;
    const int high = this->block.byte(2 + group / 4) >> (group % 4 * 2) & 0x03;
    return {d * whole_number(static_cast<uint32_t>(low | high << 4), 32), 0};
  }
  constexpr auto numbers(int group, int first) const {
    const auto lanes = this->block.lanes(8 + group * 16 + first % 16);
    return Reader::chosen(bits_of<Reader>(lanes, first / 16 * 4, 0x0f));
  }
};

/// A number that stands alone: the type of its bits, and its value() as float32.
template <StoredType kType>
struct Single;

template <>
struct Single<StoredType::f32> {
  using Bits = uint32_t;
  static constexpr float value(uint32_t bits) { return as_number(bits); }
};
template <>
struct Single<StoredType::f16> {
  using Bits = uint16_t;
  static constexpr float value(uint32_t bits) { return half_to_float(bits); }
};
template <>
struct Single<StoredType::bf16> {
  using Bits = uint16_t;
  static constexpr float value(uint32_t bits) { return as_number(bits << 16); }
};
template <>
struct Single<StoredType::f8_e4m3> {
  using Bits = uint8_t;
  static constexpr float value(uint32_t bits) { return e4m3_to_float(bits); }
};
template <>
struct Single<StoredType::f8_e5m2> {
  using Bits = uint8_t;
  static constexpr float value(uint32_t bits) { return e5m2_to_float(bits); }
};
template <>
struct Single<StoredType::i8> {
  using Bits = uint8_t;
  static constexpr float value(uint32_t bits) { return whole_number(bits ^ 0x80u, 128); }
};

/// One step of a rotation, up to a factor of 2: the product with H4 of the highest of an index's digits to the base 4,
/// which then is the lowest. After as many steps as there are digits every digit has been multiplied, and stands in its
/// place again. \param quarter of the numbers \param i below it
template <class In, class Out>
constexpr void rotate_digit(const In* x, int quarter, int i, Out* out) {
  const int a = x[i], b = x[i + quarter], c = x[i + 2 * quarter], d = x[i + 3 * quarter], sum = a + b + c + d;
  out[0] = sum - 2 * d, out[1] = sum - 2 * c, out[2] = sum - 2 * b, out[3] = sum - 2 * a;
}

/// \return 2^-k for a rotation of 4^k numbers: what each step leaves out.
constexpr float rotation_factor(int numbers) {
  float factor = 1;
  for (; numbers > 1; numbers /= 4) factor /= 2;
  return factor;
}

}  // namespace
}  // namespace nostos
