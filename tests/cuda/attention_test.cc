// Tests what CUDA's attention promises at the models' shapes: heads and queries that do not depend on the others, the
// text encoder's grouped causal heads, the log-sum-exp, and the decoder's wide head.
#include "ops/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "cuda/attention_cases.h"
#include "cuda/gpu.h"
#include "ops/elementwise.h"

namespace nostos {
namespace {

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

/// \return queries [first, first + count) of every head of q [heads, tokens, head_dim] on the host.
Tensor queries_of(ConstView q, int64_t first, int64_t count) {
  const int64_t heads = q.shape()[0], head_dim = q.shape()[2];
  Tensor part(Device{}, q.dtype(), {heads, count, head_dim});
  for (int64_t h = 0; h < heads; ++h) {
    const ConstView from = q.rows(h, 1).reshape({q.shape()[1], head_dim}).rows(first, count);
    std::memcpy(part.view().rows(h, 1).bytes(), from.bytes(), from.size_in_bytes());
  }
  return part;
}

// Z-Image's 30 heads dealt to 4, 7 and 30 ranks, at lengths that are no multiple of a tile.
TEST(CudaAttention, HeadsDoNotDependOnTheirNumber) {
  constexpr int64_t kHeads = 30, kTokens = 1057, kWidth = 128;
  const Tensor q = on_gpu(random_tensor(DType::bf16, {kHeads, kTokens, kWidth}, 1, -2, 2)),
               k = on_gpu(random_tensor(DType::bf16, {kHeads, kTokens, kWidth}, 2, -2, 2)),
               v = on_gpu(random_tensor(DType::bf16, {kHeads, kTokens, kWidth}, 3));
  Tensor all = gpu_tensor(DType::bf16, {kTokens, kHeads * kWidth});
  ops::attention(gpu(), {q, k, v}, 0.088f, false, all);
  const Tensor whole = on_host(all);
  for (const std::vector<int64_t>& shares : {std::vector<int64_t>{8, 8, 7, 7}, {5, 5, 4, 4, 4, 4, 4}, {1, 29}}) {
    int64_t first = 0;
    for (const int64_t count : shares) {
      Tensor out = gpu_tensor(DType::bf16, {kTokens, count * kWidth});
      ops::attention(gpu(), {q.view().rows(first, count), k.view().rows(first, count), v.view().rows(first, count)},
                     0.088f, false, out);
      const Tensor part = on_host(out);
      int64_t wrong_tokens = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        const std::byte* expected = whole.view().rows(t, 1).bytes() + first * kWidth * 2;
        if (std::memcmp(part.view().rows(t, 1).bytes(), expected, static_cast<size_t>(count * kWidth) * 2) != 0)
          ++wrong_tokens;
      }
      EXPECT_EQ(wrong_tokens, 0) << "heads " << first << " to " << first + count;
      first += count;
    }
  }
}

// The decoder's middle attention with its queries dealt to ranks: one head of 512, and the embedded model's of 128.
// Few queries too.
TEST(CudaAttention, QueriesDoNotDependOnTheirNumber) {
  struct Shares {
    int64_t width, tokens;
    std::vector<int64_t> counts;
  };
  for (const Shares& c :
       {Shares{512, 4500, {1, 64, 135, 1500, 2800}}, {128, 1057, {1, 7, 33, 500, 516}}, {192, 320, {1, 319}}}) {
    for (const DType dtype : {DType::bf16, DType::f32}) {
      const Tensor q = random_tensor(dtype, {1, c.tokens, c.width}, 1, -2, 2);
      const Tensor k = on_gpu(random_tensor(dtype, {1, c.tokens, c.width}, 2, -2, 2)),
                   v = on_gpu(random_tensor(dtype, {1, c.tokens, c.width}, 3));
      Tensor all = gpu_tensor(dtype, {c.tokens, c.width});
      ops::attention(gpu(), {on_gpu(q), k, v}, 0.05f, false, all);
      const Tensor whole = on_host(all);
      int64_t first = 0;
      for (const int64_t count : c.counts) {
        Tensor part = gpu_tensor(dtype, {count, c.width});
        ops::attention(gpu(), {on_gpu(queries_of(q, first, count)), k, v}, 0.05f, false, part);
        EXPECT_TRUE(same_bits(whole.view().rows(first, count), on_host(part)))
            << name(dtype) << " width " << c.width << " queries " << first << " to " << first + count;
        first += count;
      }
    }
  }
}

// Lengths below, at and above a tile of 64 queries and 128 keys, and a cluster's two tiles; scores from flat to peaked,
// and growing from key to key, for which older sums are scaled. A weight and the result are rounded to bf16. Measured
// errors are in the test's record.
TEST(CudaAttention, WideHeadEqualsReference) {
  constexpr int64_t kWidth = 512;
  WorstError worst;
  for (const auto& [queries, keys] :
       {std::pair<int64_t, int64_t>{1, 1}, {63, 127}, {64, 128}, {65, 129}, {129, 300}, {200, 1024}}) {
    for (const float range : {0.1f, 1.f, 6.f}) {
      const Tensor q = random_tensor(DType::bf16, {1, queries, kWidth}, 1, -range, range);
      Tensor k = random_tensor(DType::bf16, {1, keys, kWidth}, 2, -range, range);
      const Tensor v = random_tensor(DType::bf16, {1, keys, kWidth}, 3);
      for (int64_t i = 0; i < k.shape().elements(); ++i) {
        bfloat16& element = k.data<bfloat16>()[i];
        element = to_bfloat16(to_float(element) * static_cast<float>(1 + i / kWidth) / static_cast<float>(keys));
      }
      const float scale = 1 / std::sqrt(static_cast<float>(kWidth));
      Tensor out = gpu_tensor(DType::bf16, {queries, kWidth});
      ops::attention(gpu(), {on_gpu(q), on_gpu(k), on_gpu(v)}, scale, false, out);
      const auto attend = [&](const Values& value) {
        return reference::attention(values(q), values(k), value, scale, false, 1, 1, queries, keys, kWidth);
      };
      const Values expected = attend(values(v)), of_absolute = attend(reference::absolute(values(v)));
      Values bound;
      for (size_t i = 0; i < expected.size(); ++i)
        bound.push_back(std::abs(expected[i]) * kUnitBf16 + of_absolute[i] * (kUnitBf16 + 1e-4));
      worst(DType::bf16, expect_within(on_host(out), expected, bound,
                                       fmt::format("{} queries, {} keys, range {}", queries, keys, range)));
    }
  }
}

// Qwen3: 32 heads share 8 of the keys, causal, a prompt of odd length; bf16 rounds probabilities and result, which
// are averages of values below 1. Measured errors are in the test's record.
TEST(CudaAttention, GroupedCausalHeadsEqualReference) {
  constexpr int64_t kHeads = 32, kKvHeads = 8, kWidth = 128;
  WorstError worst;
  for (const int64_t tokens : {1, 37, 130}) {
    const Tensor q = random_tensor(DType::bf16, {kHeads, tokens, kWidth}, 1, -2, 2),
                 k = random_tensor(DType::bf16, {kKvHeads, tokens, kWidth}, 2, -2, 2),
                 v = random_tensor(DType::bf16, {kKvHeads, tokens, kWidth}, 3);
    const float scale = 1 / std::sqrt(static_cast<float>(kWidth));
    Tensor out = gpu_tensor(DType::bf16, {tokens, kHeads * kWidth});
    ops::attention(gpu(), {on_gpu(q), on_gpu(k), on_gpu(v)}, scale, true, out);
    const auto attend = [&](const Values& value) {
      return reference::attention(values(q), values(k), value, scale, true, kHeads, kKvHeads, tokens, tokens, kWidth);
    };
    const Values expected = attend(values(v)), of_absolute = attend(reference::absolute(values(v)));
    Values bound;
    for (size_t i = 0; i < expected.size(); ++i)
      bound.push_back(std::abs(expected[i]) * kUnitBf16 + of_absolute[i] * (kUnitBf16 + 1e-4));
    worst(DType::bf16, expect_within(on_host(out), expected, bound, fmt::format("{} tokens", tokens)));
  }
}

// Heads of 128 without a mask, around blocks of 80 keys and tiles of 64, 128 and 192 queries; large scores, whose
// maximum moves from block to block. Measured errors are in the test's record.
TEST(CudaAttention, HeadsOf128EqualReference) {
  constexpr int64_t kWidth = 128;
  WorstError worst;
  for (const AttentionCase& c : kAttentionCases) {
    const Tensor q = random_tensor(DType::bf16, {c.heads, c.queries, kWidth}, 1, -c.largest, c.largest),
                 k = random_tensor(DType::bf16, {c.kv_heads, c.keys, kWidth}, 2, -c.largest, c.largest),
                 v = random_tensor(DType::bf16, {c.kv_heads, c.keys, kWidth}, 3);
    Tensor out = gpu_tensor(DType::bf16, {c.queries, c.heads * kWidth});
    constexpr float kScale = 0.088388f;
    ops::attention(gpu(), {on_gpu(q), on_gpu(k), on_gpu(v)}, kScale, false, out);
    const auto attend = [&](const Values& value) {
      return reference::attention(values(q), values(k), value, kScale, false, c.heads, c.kv_heads, c.queries, c.keys,
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

// Heads where the projection left them: as split into heads and attended to, bit for bit. Grouped keys; around tiles of
// 64 tokens, and where the last round of tiles is of shorter ones.
TEST(CudaAttention, PackedGivesTheBitsOfSplitHeads) {
  constexpr int64_t kWidth = 128;
  if (!ops::packs_attention(gpu().device(), DType::bf16, kWidth, false)) GTEST_SKIP() << "heads are split on this GPU";
  struct Case {
    int64_t tokens, heads, kv_heads;
    bool is_normed;
  };
  for (const Case& c : {Case{1, 1, 1, true}, {65, 4, 2, true}, {200, 3, 3, false}, {2112, 30, 30, true}}) {
    const Tensor qkv = random_tensor(DType::bf16, {c.tokens, (c.heads + 2 * c.kv_heads) * kWidth}, 1, -2, 2);
    const Tensor q_norm = on_gpu(random_tensor(DType::f32, {kWidth}, 2)),
                 k_norm = on_gpu(random_tensor(DType::f32, {kWidth}, 3));
    const Tensor cos = on_gpu(random_tensor(DType::f32, {c.tokens, kWidth / 2}, 4)),
                 sin = on_gpu(random_tensor(DType::f32, {c.tokens, kWidth / 2}, 5));
    const ConstView q_weight = c.is_normed ? ConstView(q_norm) : ConstView(),
                    k_weight = c.is_normed ? ConstView(k_norm) : ConstView();
    constexpr float kEps = 1e-5f, kScale = 0.088388f;
    Tensor q = gpu_tensor(DType::bf16, {c.heads, c.tokens, kWidth}),
           k = gpu_tensor(DType::bf16, {c.kv_heads, c.tokens, kWidth}), v = gpu_tensor(DType::bf16, k.shape());
    Tensor split = gpu_tensor(DType::bf16, {c.tokens, c.heads * kWidth}),
           packed = gpu_tensor(DType::bf16, split.shape());
    Tensor projection = on_gpu(qkv);
    ops::split_heads_rope(gpu(), projection, {q_weight, k_weight, kEps, cos, sin, ops::RotaryPairs::interleaved},
                          std::array{ops::HeadGroup{q, k, v}});
    ops::attention(gpu(), {q, k, v}, kScale, false, split);
    ops::packed_attention(gpu(), projection, {q_weight, k_weight, kEps, cos, sin, ops::RotaryPairs::interleaved},
                          {c.heads, c.kv_heads}, kScale, packed);
    EXPECT_TRUE(same_bits(on_host(split), on_host(packed))) << c.tokens << " tokens, " << c.heads << " heads";
  }
}

/// Expects rows of `wanted` where targets of all sizes say, and nothing beside them.
void expect_same_in_runs(View packed, int64_t heads, float scale, ConstView wanted) {
  const int64_t tokens = packed.shape()[0], width = wanted.shape()[1], stride = width + 24;
  Tensor out = gpu_tensor(DType::bf16, {tokens, stride});
  ops::clear(gpu(), out);
  // Rows go in reverse order of their runs, which begin and end within tiles of 64.
  std::vector<ops::RowTarget> targets;
  int64_t first = 0, count = 1;
  for (; first < tokens; first += count) {
    count = std::min(2 * count + 1, tokens - first);
    std::byte* const to = out.view().rows(tokens - first - count, 1).bytes() + 8 * size_bytes(DType::bf16);
    targets.push_back({first, count, to, stride});
  }
  targets.push_back({0, 0, nullptr, stride});
  ops::packed_attention_to(gpu(), packed, {}, {heads, heads}, scale, targets);
  const Tensor got = on_host(out), rows = on_host(wanted);
  int64_t wrong = 0;
  for (const ops::RowTarget& target : targets) {
    for (int64_t i = 0; i < target.count; ++i) {
      const int64_t at = tokens - target.first - target.count + i;
      const uint16_t* const row = reinterpret_cast<const uint16_t*>(got.view().rows(at, 1).bytes());
      wrong += std::memcmp(row + 8, rows.view().rows(target.first + i, 1).bytes(), static_cast<size_t>(width) * 2) != 0;
      wrong += std::count(row, row + 8, 0) != 8 || std::count(row + 8 + width, row + stride, 0) != 16;
    }
  }
  EXPECT_EQ(wrong, 0) << tokens << " tokens in " << targets.size() << " runs";
}

// Some heads of some tokens at a time, token-major, as ranks exchange them: the heads of one split, which attend where
// they lie as they do apart.
TEST(CudaAttention, PackedHeadsOfARankGiveTheBitsOfSplitHeads) {
  constexpr int64_t kWidth = 128, kHeads = 30;
  constexpr float kEps = 1e-5f, kScale = 0.088388f;
  const bool attends = ops::packs_attention(gpu().device(), DType::bf16, kWidth, false);
  for (const int64_t tokens : {1, 65, 1057}) {
    const Tensor qkv = on_gpu(random_tensor(DType::bf16, {tokens, 3 * kHeads * kWidth}, 1, -2, 2)),
                 norm = on_gpu(random_tensor(DType::f32, {kWidth}, 2));
    const Tensor cos = on_gpu(random_tensor(DType::f32, {tokens, kWidth / 2}, 3)),
                 sin = on_gpu(random_tensor(DType::f32, {tokens, kWidth / 2}, 4));
    const auto split = [&](int64_t token, int64_t count, std::span<const ops::HeadGroup> groups) {
      ops::split_heads_rope(gpu(), qkv.view().rows(token, count),
                            {norm, norm, kEps, cos.view().rows(token, count), sin.view().rows(token, count),
                             ops::RotaryPairs::interleaved},
                            groups);
    };
    Tensor q = gpu_tensor(DType::bf16, {kHeads, tokens, kWidth}), k = gpu_tensor(DType::bf16, q.shape()),
           v = gpu_tensor(DType::bf16, q.shape());
    split(0, tokens, std::array{ops::HeadGroup{q, k, v}});
    const std::array apart{on_host(q), on_host(k), on_host(v)};
    int64_t first = 0;
    for (const int64_t count : {8, 15, 7}) {
      Tensor packed = gpu_tensor(DType::bf16, {tokens, 3, count, kWidth});
      const int64_t half = tokens / 2;
      for (const auto& [token, rows] : {std::pair<int64_t, int64_t>{half, tokens - half}, {0, half}}) {
        const auto group = [](View heads) { return ops::HeadGroup{{}, {}, {}, heads}; };
        const auto nowhere = [&](int64_t heads) { return group(View(nullptr, DType::bf16, {rows, 3, heads, kWidth})); };
        split(token, rows,
              std::array{nowhere(first), group(packed.view().rows(token, rows)), nowhere(kHeads - first - count)});
      }
      const Tensor together = on_host(packed);
      int64_t wrong_rows = 0;
      for (int64_t row = 0; row < tokens * 3 * count; ++row) {
        const Tensor& kind = apart[static_cast<size_t>(row / count % 3)];
        const int64_t from = (first + row % count) * tokens + row / (3 * count);
        wrong_rows += std::memcmp(together.view().bytes() + row * kWidth * 2, kind.view().bytes() + from * kWidth * 2,
                                  kWidth * 2) != 0;
      }
      EXPECT_EQ(wrong_rows, 0) << tokens << " tokens, heads " << first << " to " << first + count;
      if (attends) {
        Tensor wanted = gpu_tensor(DType::bf16, {tokens, count * kWidth}),
               out = gpu_tensor(DType::bf16, wanted.shape());
        const auto some = [&](Tensor& heads) { return heads.view().rows(first, count); };
        ops::attention(gpu(), {some(q), some(k), some(v)}, kScale, false, wanted);
        ops::packed_attention(gpu(), packed.view().reshape({tokens, 3 * count * kWidth}), {}, {count, count}, kScale,
                              out);
        EXPECT_TRUE(same_bits(on_host(wanted), on_host(out))) << tokens << " tokens, heads from " << first;
        EXPECT_TRUE(same_bits(together, on_host(packed))) << "heads were rotated twice";
        expect_same_in_runs(packed.view().reshape({tokens, 3 * count * kWidth}), count, kScale, wanted);
      }
      first += count;
    }
  }
}

// The score errs by its float32 sum, the logarithm by a few units. Measured errors are in the test's record.
TEST(CudaAttention, LogSumExpEqualsReference) {
  constexpr int64_t kHeads = 2, kQueries = 70;
  WorstError worst;
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const int64_t width : {64, 128, 192}) {
      for (const int64_t keys : {1, 133}) {
        const Tensor q = random_tensor(dtype, {kHeads, kQueries, width}, 1, -2, 2),
                     k = random_tensor(dtype, {kHeads, keys, width}, 2, -2, 2), v = random_tensor(dtype, k.shape(), 3);
        Tensor out = gpu_tensor(DType::f32, {kQueries, kHeads * width}),
               lse = gpu_tensor(DType::f32, {kHeads, kQueries});
        constexpr float kScale = 0.125f;
        ops::attention_part(gpu(), {on_gpu(q), on_gpu(k), on_gpu(v)}, kScale, out, lse);
        const Values qs = values(q), ks = values(k);
        Values expected, bound;
        for (int64_t row = 0; row < kHeads * kQueries; ++row) {
          double sum = 0, largest_terms = 0;
          for (int64_t key = 0; key < keys; ++key) {
            double score = 0, terms = 0;
            for (int64_t d = 0; d < width; ++d) {
              const double product =
                  qs[reference::at(row * width + d)] * ks[reference::at((row / kQueries * keys + key) * width + d)];
              score += product, terms += std::abs(product);
            }
            sum += std::exp(static_cast<double>(kScale) * score);
            largest_terms = std::max(largest_terms, terms * static_cast<double>(kScale));
          }
          expected.push_back(std::log(sum));
          // cuDNN takes powers of two, so that scores are multiplied once more, and its exponentials are approximate.
          bound.push_back(largest_terms * 2 * sum_error(width + 4) + 2e-5 + 8 * kUnitF32 * std::abs(expected.back()));
        }
        worst(dtype, expect_within(on_host(lse), expected, bound,
                                   fmt::format("{} width {} keys {}", name(dtype), width, keys)));
      }
    }
  }
}

}  // namespace
}  // namespace nostos
