// Owns how a GPU's thread reads a block of stored numbers: eight bytes at a time. The host can read so, too: for tests.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "ops/stored_blocks.h"

namespace nostos::cuda {

/// Numbers that a reader takes at once.
inline constexpr int kLanes = 8;

/// \return four of eight bytes, those of `low` before those of `high`: each digit of `which` to the base 16 chooses
/// one, modulo 8.
__host__ __device__ inline uint32_t chosen_bytes(uint32_t low, uint32_t high, uint32_t which) {
#ifdef __CUDA_ARCH__
  return __byte_perm(low, high, which);
#else
  const uint64_t bytes = low | static_cast<uint64_t>(high) << 32;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i)
    chosen |= (static_cast<uint32_t>(bytes >> ((which >> (4 * i) & 7u) * 8)) & 0xffu) << (8 * i);
  return chosen;
#endif
}

/// Eight bytes. Each is shifted for itself by as much as leaves it what is wanted of it.
struct Lanes {
  uint32_t low, high;

  constexpr uint32_t of(int lane) const { return lane < 4 ? low : high; }
  friend constexpr Lanes operator&(Lanes a, Lanes b) { return {a.low & b.low, a.high & b.high}; }
  friend constexpr Lanes operator|(Lanes a, Lanes b) { return {a.low | b.low, a.high | b.high}; }
  friend constexpr Lanes operator^(Lanes a, Lanes b) { return {a.low ^ b.low, a.high ^ b.high}; }
  friend constexpr Lanes operator<<(Lanes a, uint8_t shift) { return {a.low << shift, a.high << shift}; }
  friend constexpr Lanes operator>>(Lanes a, uint8_t shift) { return {a.low >> shift, a.high >> shift}; }
};

/// A reader as stored_blocks.h has it. \tparam kAlign of the block's address: 1, 2, 4 or 8
template <int kAlign>
struct BlockReader {
  const uint8_t* at;

  constexpr Lanes lanes(int offset) const {
    if constexpr (kAlign == 8) {
      const auto both = *reinterpret_cast<const uint64_t*>(at + offset);
      return {static_cast<uint32_t>(both), static_cast<uint32_t>(both >> 32)};
    } else if constexpr (kAlign == 2) {
      // Words from two bytes further ahead, where these are not aligned: memory has those if it has the next two.
      const uint8_t* const from = at + offset;
      const auto ahead = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(from)) & 2u;
      const auto* const words = reinterpret_cast<const uint32_t*>(from - ahead);
      const uint32_t last = *reinterpret_cast<const uint16_t*>(from + 6), which = ahead == 0 ? 0x3210 : 0x5432;
      return {chosen_bytes(words[0], words[1], which), chosen_bytes(words[1], last, which)};
    } else {
      return {word(offset), word(offset + 4)};
    }
  }
  constexpr Lanes bit_lanes(int offset, int first) const {
    const uint32_t bits = at[offset + first / 8];
    return {spread_four_bits(bits & 0x0fu), spread_four_bits(bits >> 4)};
  }
  constexpr int byte(int offset) const { return at[offset]; }
  constexpr uint32_t word(int offset) const {
    if constexpr (kAlign >= 4) {
      return *reinterpret_cast<const uint32_t*>(at + offset);
    } else if constexpr (kAlign == 2) {
      const auto* const halves = reinterpret_cast<const uint16_t*>(at + offset);
      return chosen_bytes(halves[0], halves[1], 0x5410);
    } else {
      uint32_t bytes = 0;
      for (int i = 0; i < 4; ++i) bytes |= static_cast<uint32_t>(at[offset + i]) << (8 * i);
      return bytes;
    }
  }
  constexpr float half(int offset) const {
    if constexpr (kAlign == 1)
      return half_to_float(at[offset] | static_cast<uint32_t>(at[offset + 1]) << 8);
    else
      return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(at + offset)));
  }

  static constexpr Lanes splat(uint8_t byte) { return {byte * 0x01010101u, byte * 0x01010101u}; }
  static constexpr Lanes chosen(Lanes indices) { return {chosen_four(indices.low), chosen_four(indices.high)}; }

 private:
  /// \return bytes whose lowest bits are those of `bits`, the lowest first.
  static constexpr uint32_t spread_four_bits(uint32_t bits) { return bits * 0x00204081u & 0x01010101u; }
  static constexpr uint32_t chosen_four(uint32_t indices) {
    const uint32_t packed = chosen_bytes(indices | indices >> 4, 0, 0x4420);
    const uint32_t low = chosen_bytes(static_cast<uint32_t>(kLowIq4Numbers), kLowIq4Numbers >> 32, packed);
    const uint32_t high = chosen_bytes(static_cast<uint32_t>(kHighIq4Numbers), kHighIq4Numbers >> 32, packed);
    return chosen_bytes(low, high, 0x3210u | (packed >> 1 & 0x4444u));
  }
};

/// The alignment that a type's blocks have one after the other, and with them all that a reader takes at once.
template <StoredType kType>
constexpr int block_alignment() {
  constexpr int kBytes = Block<kType, BlockReader<1>>::kBytes;
  return kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : 2;
}

/// \return byte `at` of eight - `bias`, exact.
__host__ __device__ inline float whole_lane(Lanes lanes, int at, int bias) {
  return whole_number_of(chosen_bytes(lanes.of(at), kWholeNumberBits, 0x7440u + static_cast<uint32_t>(at % 4)), bias);
}

/// \return number `at` of eight, times what its group has in common.
template <class OneBlock>
constexpr float block_number(const GroupScale& by, Lanes lanes, int at) {
  const float number = by.factor * whole_lane(lanes, at, OneBlock::kBias);
  if constexpr (OneBlock::kHasOffset)
    return number + by.offset;
  else
    return number;
}

}  // namespace nostos::cuda
