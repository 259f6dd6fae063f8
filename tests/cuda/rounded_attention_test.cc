// Tests what a Hopper GPU's attention with queries and keys in 8 bits promises: numbers and scales as on the CPU, the
// results of these numbers, and heads and queries that do not depend on the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/rounding.h"
#include "cuda/attention_cases.h"
#include "cuda/gpu.h"
#include "ops/attention.h"
#include "ops/elementwise.h"

namespace nostos {
namespace {

constexpr int64_t kWidth = 128;
constexpr float kScale = 0.088388f;
constexpr ops::RotaryPairs kInterleaved = ops::RotaryPairs::interleaved;

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

bool is_served() { return ops::rounds_attention(gpu().device(), DType::bf16, kWidth); }

struct Rounded {
  Tensor centres, numbers, scales;

  Rounded(Context& ctx, ConstView heads, bool are_keys) {
    const Shape& shape = heads.shape();
    centres = Tensor(ctx.device(), DType::f32, {shape[0], kWidth});
    numbers = Tensor(ctx.device(), DType::i8, shape);
    const int64_t shared = are_keys ? ops::kKeysAScale : 1;
    scales = Tensor(ctx.device(), DType::f32, {shape[0], divide_up(shape[1], shared)});
    if (are_keys) ops::key_centres(ctx, heads, centres);
    ops::quantise_heads(ctx, heads, {shared, are_keys ? ConstView(centres) : ConstView()}, numbers, scales);
  }

  /// \return what the numbers of the host stand for.
  Values values() const {
    Values all;
    const int64_t tokens = numbers.shape()[1], scales_a_head = scales.shape()[1];
    const int64_t shared = scales_a_head == tokens ? 1 : ops::kKeysAScale;
    for (int64_t i = 0; i < numbers.shape().elements(); ++i) {
      const int64_t row = i / kWidth, scale = row / tokens * scales_a_head + row % tokens / shared;
      all.push_back(static_cast<double>(numbers.data<int8_t>()[i]) * static_cast<double>(scales.data<float>()[scale]));
    }
    return all;
  }
};

/// \return keys as models have them: not around zero. One row is all zeros.
Tensor random_keys(DType dtype, int64_t heads, int64_t tokens, float largest) {
  Tensor keys = random_tensor(dtype, {heads, tokens, kWidth}, 2, -largest / 2, largest);
  if (tokens > 1)
    std::memset(keys.view().reshape({heads * tokens, kWidth}).rows(1, 1).bytes(), 0, kWidth * size_bytes(dtype));
  return keys;
}

TEST(CudaRoundedAttention, NumbersScalesAndCentresAreThoseOfTheCpu) {
  Context cpu({}, 2);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [heads, tokens] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {17, 256}, {30, 600}}) {
      const Tensor keys = random_keys(dtype, heads, tokens, 3), on_the_gpu = on_gpu(keys);
      for (const bool are_keys : {false, true}) {
        const Rounded wanted(cpu, keys, are_keys), made(gpu(), on_the_gpu, are_keys);
        if (are_keys) {
          EXPECT_TRUE(same_bits(wanted.centres, on_host(made.centres))) << heads << " x " << tokens;
        }
        EXPECT_TRUE(same_bits(wanted.scales, on_host(made.scales))) << heads << " x " << tokens << " " << name(dtype);
        EXPECT_TRUE(same_bits(wanted.numbers, on_host(made.numbers))) << heads << " x " << tokens << " " << name(dtype);
      }
    }
  }
}

// Around blocks of keys and tiles of 64, 128 and 192 queries; grouped keys; large scores, whose maximum moves from
// block to block. Bounds are those of bf16 heads in attention_test.cc: scores err by roundings of float32 alone.
TEST(CudaRoundedAttention, IsThatOfTheRoundedNumbers) {
  if (!is_served()) GTEST_SKIP() << "heads are not rounded on this GPU";
  WorstError worst;
  Context cpu({}, 2);
  for (const AttentionCase& c : kAttentionCases) {
    const Tensor q = random_tensor(DType::bf16, {c.heads, c.queries, kWidth}, 1, -c.largest, c.largest),
                 k = random_keys(DType::bf16, c.kv_heads, c.keys, c.largest),
                 v = random_tensor(DType::bf16, {c.kv_heads, c.keys, kWidth}, 3);
    Tensor out = gpu_tensor(DType::bf16, {c.queries, c.heads * kWidth});
    ops::attention(gpu(), {on_gpu(q), on_gpu(k), on_gpu(v)}, {kScale, true}, false, out);
    const Rounded rounded_q(cpu, q, false), rounded_k(cpu, k, true);
    const Values q_values = rounded_q.values(), k_values = rounded_k.values();
    const auto attend = [&](const Values& value) {
      return reference::attention(q_values, k_values, value, kScale, false, c.heads, c.kv_heads, c.queries, c.keys,
                                  kWidth);
    };
    const Values expected = attend(values(v)), of_absolute = attend(reference::absolute(values(v)));
    Values bound;
    for (size_t i = 0; i < expected.size(); ++i)
      bound.push_back(std::abs(expected[i]) * kUnitBf16 + of_absolute[i] * (kUnitBf16 + 1e-4));
    worst(DType::bf16, expect_within(on_host(out), expected, bound,
                                     fmt::format("{} heads, {} queries, {} keys", c.heads, c.queries, c.keys)));
  }
}

/// \return heads [first, first + count) of rows of `heads` heads.
Tensor heads_of(const Tensor& rows, int64_t heads, int64_t first, int64_t count) {
  const int64_t tokens = rows.shape()[0];
  Tensor some(Device{}, DType::bf16, {tokens, count * kWidth});
  for (int64_t t = 0; t < tokens; ++t)
    std::memcpy(some.view().rows(t, 1).bytes(), rows.view().bytes() + (t * heads + first) * kWidth * 2,
                static_cast<size_t>(count * kWidth) * 2);
  return some;
}

/// Z-Image's 30 heads dealt to 4, 7 and 2 ranks, and queries of a few, which no rank's drawing deals but a batch might.
void expect_independent_rows(float largest) {
  constexpr int64_t kHeads = 30, kTokens = 1057;
  const Tensor q = on_gpu(random_tensor(DType::bf16, {kHeads, kTokens, kWidth}, 1, -largest, largest)),
               k = on_gpu(random_keys(DType::bf16, kHeads, kTokens, largest)),
               v = on_gpu(random_tensor(DType::bf16, {kHeads, kTokens, kWidth}, 3));
  const auto attend = [&](int64_t first, int64_t count) {
    Tensor out = gpu_tensor(DType::bf16, {kTokens, count * kWidth});
    ops::attention(gpu(), {q.view().rows(first, count), k.view().rows(first, count), v.view().rows(first, count)},
                   {kScale, true}, false, out);
    return on_host(out);
  };
  const Tensor whole = attend(0, kHeads);
  for (const std::vector<int64_t>& shares : {std::vector<int64_t>{8, 8, 7, 7}, {5, 5, 4, 4, 4, 4, 4}, {1, 29}}) {
    int64_t first = 0;
    for (const int64_t count : shares) {
      EXPECT_TRUE(same_bits(attend(first, count), heads_of(whole, kHeads, first, count))) << first << " " << count;
      first += count;
    }
  }
  const Tensor one = attend(0, 1);
  int64_t first = 0;
  for (const int64_t count : {1, 7, 33, 500, 516}) {
    Tensor part = gpu_tensor(DType::bf16, {count, kWidth});
    const ConstView queries =
        q.view().rows(0, 1).reshape({kTokens, kWidth}).rows(first, count).reshape({1, count, kWidth});
    ops::attention(gpu(), {queries, k.view().rows(0, 1), v.view().rows(0, 1)}, {kScale, true}, false, part);
    EXPECT_TRUE(same_bits(one.view().rows(first, count), on_host(part))) << "queries " << first << " to " << count;
    first += count;
  }
}

TEST(CudaRoundedAttention, HeadsAndQueriesDoNotDependOnTheirNumber) {
  if (!is_served()) GTEST_SKIP() << "heads are not rounded on this GPU";
  expect_independent_rows(2);
}

// Scores that rise far from block to block: sums are scaled anew by each row for itself.
TEST(CudaRoundedAttention, RowsOfLargeScoresDoNotDependOnTheirNumber) {
  if (!is_served()) GTEST_SKIP() << "heads are not rounded on this GPU";
  expect_independent_rows(8);
}

// Heads rounded where the projection left them, while they are rotated or after: as split into heads, then rounded and
// attended to, bit for bit. As ranks have them, rotated before, and in several runs.
TEST(CudaRoundedAttention, PackedGivesTheBitsOfSplitHeads) {
  if (!is_served()) GTEST_SKIP() << "heads are not rounded on this GPU";
  struct Case {
    int64_t tokens, heads, kv_heads;
    bool is_normed;
    ops::RotaryPairs pairs = kInterleaved;
  };
  for (const Case& c : {Case{1, 1, 1, true},
                        {65, 4, 2, true},
                        {200, 3, 3, false},
                        {300, 5, 5, true, ops::RotaryPairs::half_split},
                        {2112, 30, 30, true}}) {
    const Tensor qkv = random_tensor(DType::bf16, {c.tokens, (c.heads + 2 * c.kv_heads) * kWidth}, 1, -1, 2);
    const Tensor q_norm = on_gpu(random_tensor(DType::f32, {kWidth}, 2)),
                 k_norm = on_gpu(random_tensor(DType::f32, {kWidth}, 3));
    const Tensor cos = on_gpu(random_tensor(DType::f32, {c.tokens, kWidth / 2}, 4)),
                 sin = on_gpu(random_tensor(DType::f32, {c.tokens, kWidth / 2}, 5));
    const ConstView q_weight = c.is_normed ? ConstView(q_norm) : ConstView(),
                    k_weight = c.is_normed ? ConstView(k_norm) : ConstView();
    const ops::RotaryHeads rotary{q_weight, k_weight, 1e-5f, cos, sin, c.pairs};
    const Tensor given = on_gpu(qkv);
    Tensor q = gpu_tensor(DType::bf16, {c.heads, c.tokens, kWidth}),
           k = gpu_tensor(DType::bf16, {c.kv_heads, c.tokens, kWidth}), v = gpu_tensor(DType::bf16, k.shape()),
           split = gpu_tensor(DType::bf16, {c.tokens, c.heads * kWidth}),
           packed = gpu_tensor(DType::bf16, split.shape()), apart = gpu_tensor(DType::bf16, split.shape());
    ops::split_heads_rope(gpu(), given, rotary, std::array{ops::HeadGroup{q, k, v}});
    ops::attention(gpu(), {q, k, v}, {kScale, true}, false, split);
    Tensor projection = on_gpu(qkv);
    ops::packed_attention(gpu(), projection, rotary, {c.heads, c.kv_heads}, {kScale, true}, packed);
    EXPECT_TRUE(same_bits(on_host(split), on_host(packed))) << c.tokens << " tokens, " << c.heads << " heads";
    if (c.heads != c.kv_heads) continue;
    Tensor rotated = gpu_tensor(DType::bf16, {c.tokens, 3, c.heads, kWidth});
    ops::split_heads_rope(gpu(), given, rotary, std::array{ops::HeadGroup{{}, {}, {}, rotated}});
    std::vector<ops::RowTarget> runs;
    for (int64_t first = 0, count = 1; first < c.tokens; first += count) {
      count = std::min(3 * count, c.tokens - first);
      runs.push_back({first, count, apart.view().rows(first, 1).bytes(), c.heads * kWidth});
    }
    ops::packed_attention_to(gpu(), rotated.view().reshape({c.tokens, 3 * c.heads * kWidth}), {}, {c.heads, c.heads},
                             {kScale, true}, runs);
    EXPECT_TRUE(same_bits(on_host(split), on_host(apart))) << c.tokens << " tokens in " << runs.size() << " runs";
  }
}

}  // namespace
}  // namespace nostos
