// Tests that sequences that share an attention layer get the bits that each gets alone.
#include "nn/attention.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "device/arena.h"
#include "ops/support.h"

namespace nostos::nn {
namespace {

constexpr int64_t kHidden = 48;

/// \return attention of sequences of these lengths whose rows stand one after the other in `x`, added to ones if
/// `accumulate`.
Tensor attend(const AttentionShape& shape, const AttentionWeights& w, std::span<const int64_t> lengths, ConstView x,
              const RopeTable& rope, bool accumulate) {
  Context ctx({}, 2);
  const std::vector<ShardedSequence> owners(lengths.begin(), lengths.end());
  std::vector<AttendedSequence> sequences;
  for (const ShardedSequence& owner : owners) sequences.push_back({&owner, rope.rows(0, owner.rows())});
  const auto take = [&](Arena& arena) { return AttentionScratch::take(arena, shape, pointers_to(owners), x.dtype()); };
  Arena measure(Device{});
  take(measure);
  Arena arena(Device{}, measure.peak_bytes());
  const AttentionScratch scratch = take(arena);
  Tensor projected({}, DType::f32, {x.shape()[0], kHidden});
  std::fill_n(projected.data<float>(), projected.shape().elements(), 1.f);
  attention(ctx, sequences, shape, {&w, 1}, {x, projected, accumulate}, scratch);
  return projected;
}

TEST(AttentionLayer, SequencesThatShareALayerGetTheBitsOfEachAlone) {
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const bool causal : {false, true}) {
      const AttentionShape shape{.heads = 6, .kv_heads = causal ? 2 : 6, .head_dim = 16, .causal = causal};
      const Tensor q_norm = random_tensor(DType::f32, {16}, 1), k_norm = random_tensor(DType::f32, {16}, 2);
      const AttentionWeights w{ops::pack_linear(ctx, random_tensor(dtype, {shape.qkv_width(), kHidden}, 3)), q_norm,
                               k_norm, ops::pack_linear(ctx, random_tensor(dtype, {kHidden, 6 * 16}, 4))};
      Tensor cos = random_tensor(DType::f32, {65, 8}, 5), sin = random_tensor(DType::f32, {65, 8}, 6);
      const RopeTable rope{cos, sin};
      const std::array<int64_t, 5> lengths{1, 65, 7, 32, 65};
      const Tensor x = random_tensor(dtype, {170, kHidden}, 7);
      const Tensor together = attend(shape, w, lengths, x, rope, causal);
      int64_t begin = 0;
      for (const int64_t length : lengths) {
        const Tensor alone = attend(shape, w, {&length, 1}, x.view().rows(begin, length), rope, causal);
        EXPECT_EQ(std::memcmp(alone.view().bytes(), together.view().rows(begin, length).bytes(), alone.size_in_bytes()),
                  0)
            << length << " rows from " << begin << " in " << name(dtype);
        begin += length;
      }
    }
  }
}

TEST(AttentionLayer, SequencesTakeTurnsInTheMemoryOfTheLargest) {
  const AttentionShape shape{.heads = 6, .kv_heads = 6, .head_dim = 16};
  const auto bytes = [&](const std::vector<ShardedSequence>& sequences) {
    Arena arena(Device{});
    AttentionScratch::take(arena, shape, pointers_to(sequences), DType::f32);
    EXPECT_EQ(arena.used_bytes(), arena.peak_bytes()) << "what follows would overlap";
    return arena.peak_bytes();
  };
  const auto of = [](std::initializer_list<int64_t> rows) {
    return std::vector<ShardedSequence>(rows.begin(), rows.end());
  };
  const size_t q_k_v = size_t{3} * 6 * 16 * 4, qkv_and_mixed = size_t{4} * 6 * 16 * 4;
  EXPECT_EQ(bytes(of({64, 256, 32})), 352 * qkv_and_mixed + 256 * q_k_v);
}

}  // namespace
}  // namespace nostos::nn
