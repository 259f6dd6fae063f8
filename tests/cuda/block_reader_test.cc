// Tests on the host how a GPU's thread reads blocks of stored numbers.
#include "ops/cuda/block_reader.h"

#include <gtest/gtest.h>

#include <vector>

#include "ops/stored_cases.h"

namespace nostos {
namespace {

using cuda::BlockReader;
using cuda::kLanes;

/// Expects the reference's numbers of blocks at an address that is `kAlign` beyond one of 16 bytes, and `kAlign` a
/// multiple of all of them.
template <StoredType kType, int kAlign>
void expect_numbers(const StoredCase& c) {
  using OneBlock = Block<kType, BlockReader<kAlign>>;
  std::vector<uint8_t> memory(c.matrix.size_in_bytes() + kAlign);
  std::memcpy(memory.data() + kAlign, c.matrix.data, c.matrix.size_in_bytes());
  Tensor made(Device{}, DType::f32, c.numbers.shape());
  float* out = made.data<float>();
  for (int64_t begin = 0; begin < c.numbers.elements(); begin += OneBlock::kElements) {
    const uint8_t* at = memory.data() + kAlign + begin / OneBlock::kElements * OneBlock::kBytes;
    const OneBlock block{{BlockReader<kAlign>{at}}};
    for (int group = 0; group < OneBlock::kElements / OneBlock::kGroup; ++group) {
      for (int first = 0; first < OneBlock::kGroup; first += kLanes) {
        const cuda::Lanes lanes = block.numbers(group, first);
        for (int i = 0; i < kLanes; ++i) *out++ = cuda::block_number<OneBlock>(block.scale(group), lanes, i);
      }
    }
  }
  expect_same_bits(made, c.numbers, fmt::format("{} at {}", c.name, kAlign));
}

template <StoredType kType>
void expect_numbers_of(const char* name) {
  const StoredCase c = stored_case(name);
  ASSERT_EQ(c.matrix.format.type, kType);
  expect_numbers<kType, 1>(c);
  expect_numbers<kType, cuda::block_alignment<kType>()>(c);
}

TEST(BlockReader, GivesTheReferencesNumbers) {
  expect_numbers_of<StoredType::q4_0>("q4_0");
  expect_numbers_of<StoredType::q4_1>("q4_1");
  expect_numbers_of<StoredType::q5_0>("q5_0");
  expect_numbers_of<StoredType::q5_1>("q5_1");
  expect_numbers_of<StoredType::q8_0>("q8_0");
  expect_numbers_of<StoredType::q2_k>("q2_k");
  expect_numbers_of<StoredType::q3_k>("q3_k");
  expect_numbers_of<StoredType::q4_k>("q4_k");
  expect_numbers_of<StoredType::q5_k>("q5_k");
  expect_numbers_of<StoredType::q6_k>("q6_k");
  expect_numbers_of<StoredType::iq4_nl>("iq4_nl");
  expect_numbers_of<StoredType::iq4_xs>("iq4_xs");
}

}  // namespace
}  // namespace nostos
