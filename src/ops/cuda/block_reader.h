// Owns how a GPU's thread reads a block of stored numbers: eight bytes at a time. The host can read so, too: for tests.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "ops/stored_blocks.h"

namespace nostos::cuda {

/// Numbers that a reader takes at once.
inline constexpr int kLanes = 8;

/// A reader as stored_blocks.h has it. \tparam kAlign of the block's address: 1, 2, 4 or 8
template <int kAlign>
struct BlockReader {
  const uint8_t* at;

  constexpr uint64_t lanes(int offset) const {
    uint64_t bytes = 0;
    if constexpr (kAlign == 8) {
      bytes = *reinterpret_cast<const uint64_t*>(at + offset);
    } else if constexpr (kAlign == 4) {
      for (int i = 0; i < 2; ++i)
        bytes |= static_cast<uint64_t>(*reinterpret_cast<const uint32_t*>(at + offset + 4 * i)) << (32 * i);
    } else if constexpr (kAlign == 2) {
      for (int i = 0; i < 4; ++i)
        bytes |= static_cast<uint64_t>(*reinterpret_cast<const uint16_t*>(at + offset + 2 * i)) << (16 * i);
    } else {
      for (int i = 0; i < 8; ++i) bytes |= static_cast<uint64_t>(at[offset + i]) << (8 * i);
    }
    return bytes;
  }
  constexpr uint64_t bit_lanes(int offset, int first) const { return spread_bits(at[offset + first / 8]); }
  constexpr int byte(int offset) const { return at[offset]; }
  constexpr float half(int offset) const {
    if constexpr (kAlign == 1)
      return half_number(at[offset] | static_cast<uint32_t>(at[offset + 1]) << 8);
    else
      return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(at + offset)));
  }

  static constexpr uint64_t splat(uint8_t byte) { return byte * 0x0101010101010101u; }
  static constexpr uint64_t chosen(uint64_t indices) {
    uint64_t found = 0;
    for (int i = 0; i < kLanes; ++i) {
      const int index = static_cast<int>(indices >> (8 * i)) & 0x0f;
      found |= ((index < 8 ? kLowIq4Numbers : kHighIq4Numbers) >> (index % 8 * 8) & 0xffu) << (8 * i);
    }
    return found;
  }
};

/// The alignment that a type's blocks have one after the other, and with them all that a reader takes at once.
template <StoredType kType>
constexpr int block_alignment() {
  constexpr int kBytes = Block<kType, BlockReader<1>>::kBytes;
  return kBytes % 8 == 0 ? 8 : kBytes % 4 == 0 ? 4 : 2;
}

/// \return number `at` of eight, times what its group has in common.
template <class OneBlock>
constexpr float block_number(const GroupScale& by, uint64_t lanes, int at) {
  const uint32_t word = static_cast<uint32_t>(at < 4 ? lanes : lanes >> 32);
  const float number = by.factor * whole_number(word >> (at % 4 * 8) & 0xffu, OneBlock::kBias);
  if constexpr (OneBlock::kHasOffset)
    return number + by.offset;
  else
    return number;
}

}  // namespace nostos::cuda
