// Tests attention and the step before it against the reference.
#include "ops/attention.h"

#include <gtest/gtest.h>

#include <array>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/support.h"

namespace nostos {
namespace {

using ops::RotaryPairs;
using reference::at;

struct Case {
  int64_t heads, kv_heads, queries, keys, head_dim;
  bool causal;
};

// Below, at and above the query block of 64; grouped keys; one head as wide as the VAE's channels; no queries.
const std::vector<Case> kCases = {
    {1, 1, 1, 1, 2, false},     {2, 2, 1, 31, 16, false},   {6, 6, 31, 33, 64, false}, {2, 1, 32, 32, 32, true},
    {4, 2, 63, 63, 16, true},   {4, 2, 64, 64, 64, true},   {4, 1, 65, 65, 128, true}, {3, 3, 130, 65, 64, false},
    {1, 1, 65, 200, 96, false}, {1, 1, 20, 20, 512, false}, {2, 2, 0, 5, 16, false},
};

/// \return the largest q.k of any query and key of a head.
double largest_score(const Values& q, const Values& k, const Case& c) {
  double largest = 0;
  for (int64_t row = 0; row < c.heads * c.queries; ++row) {
    const int64_t first_key = row / c.queries / (c.heads / c.kv_heads) * c.keys;
    for (int64_t key = first_key; key < first_key + c.keys; ++key) {
      double sum = 0;
      for (int64_t d = 0; d < c.head_dim; ++d) sum += q[at(row * c.head_dim + d)] * k[at(key * c.head_dim + d)];
      largest = std::max(largest, sum);
    }
  }
  return largest;
}

// A probability errs by the errors of its own and the largest score, by that of exp, and, both in numerator and
// denominator, by that of the sum over keys; bf16 rounds probabilities and output. Measured: 0.011 of the bound for
// f32, 0.62 for bf16.
TEST(Attention, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const Case& c : kCases) {
      const Tensor q = random_tensor(dtype, {c.heads, c.queries, c.head_dim}, 1, -2, 2);
      const Tensor k = random_tensor(dtype, {c.kv_heads, c.keys, c.head_dim}, 2, -2, 2);
      const Tensor v = random_tensor(dtype, {c.kv_heads, c.keys, c.head_dim}, 3);
      const float scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
      Guarded out(dtype, {c.queries, c.heads * c.head_dim});
      ops::attention(ctx, {q, k, v}, scale, c.causal, out);
      const auto attend = [&](const Values& value) {
        return reference::attention(values(q), values(k), value, scale, c.causal, c.heads, c.kv_heads, c.queries,
                                    c.keys, c.head_dim);
      };
      const Values expected = attend(values(v)), of_absolute = attend(reference::absolute(values(v)));
      const double largest_terms =
          largest_score(reference::absolute(values(q)), reference::absolute(values(k)), c) * scale;
      const double probability_error = 2 * sum_error(c.head_dim + 2) * largest_terms + kExpError + sum_error(c.keys);
      Values bound(expected.size());
      for (size_t i = 0; i < bound.size(); ++i) {
        bound[i] = of_absolute[i] * 2 * probability_error + std::abs(expected[i]) * unit(dtype);
        if (dtype == DType::bf16) bound[i] += of_absolute[i] * kUnitBf16;
      }
      worst(dtype, expect_within(out, expected, bound,
                                 fmt::format("{} heads {}/{} queries {} keys {} width {}", name(dtype), c.heads,
                                             c.kv_heads, c.queries, c.keys, c.head_dim)));
      out.expect_guards_untouched();
    }
  }
}

// Scores of +-1000 and more: the softmax must subtract the largest, and all other probabilities vanish.
TEST(Attention, LargeScoresPickOneKey) {
  Context ctx({}, 1);
  Tensor q(Device{}, DType::f32, {1, 1, 2}), k(Device{}, DType::f32, {1, 3, 2}), v(Device{}, DType::f32, {1, 3, 2});
  const float queries[] = {100, 0}, keys[] = {-50, 1, 50, 2, 30, 3}, contents[] = {1, 2, 3, 4, 5, 6};
  std::memcpy(q.data<float>(), queries, sizeof queries);
  std::memcpy(k.data<float>(), keys, sizeof keys);
  std::memcpy(v.data<float>(), contents, sizeof contents);
  Guarded out(DType::f32, {1, 2});
  ops::attention(ctx, {q, k, v}, 1.f, false, out);
  EXPECT_EQ(values(out), (Values{3, 4}));
}

TEST(Attention, CausalFirstQuerySeesItselfAlone) {
  Context ctx({}, 1);
  const Tensor q = random_tensor(DType::f32, {2, 70, 16}, 1), k = random_tensor(DType::f32, {2, 70, 16}, 2);
  const Tensor v = random_tensor(DType::f32, {2, 70, 16}, 3);
  Guarded out(DType::f32, {70, 32});
  ops::attention(ctx, {q, k, v}, 0.25f, true, out);
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t d = 0; d < 16; ++d) EXPECT_EQ(value_at(out, h * 16 + d), value_at(v, h * 70 * 16 + d));
  }
}

TEST(Attention, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Tensor q = random_tensor(DType::f32, {3, 4, 8}, 1), k = random_tensor(DType::f32, {2, 5, 8}, 2);
  Guarded out(DType::f32, {4, 24});
  EXPECT_THROW(ops::attention(ctx, {q, k, k}, 1, false, out), Error);  // 2 does not divide 3 heads
  EXPECT_THROW(ops::attention(ctx, {q, random_tensor(DType::f32, {3, 5, 8}, 3), k}, 1, false, out), Error);
  EXPECT_THROW(
      ops::attention(ctx, {q, random_tensor(DType::bf16, {3, 5, 8}, 3), random_tensor(DType::bf16, {3, 5, 8}, 3)}, 1,
                     false, out),
      Error);
  const Tensor keys = random_tensor(DType::f32, {3, 5, 8}, 3), none(Device{}, DType::f32, {3, 0, 8});
  EXPECT_THROW(ops::attention(ctx, {q, keys, keys}, 1, true, out), Error);  // causal with 4 queries and 5 keys
  EXPECT_THROW(ops::attention(ctx, {q, none, none}, 1, false, out), Error);
}

// The norm errs as in norm_test.cc; a rotation adds two products and their sum.
// Measured: 0.18 of the bound for f32, 1.0 for bf16 (its output rounding).
TEST(SplitHeadsRope, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  struct HeadCase {
    int64_t tokens, heads, kv_heads, head_dim;
  };
  constexpr float kEps = 1e-5f;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const HeadCase& c :
         {HeadCase{1, 1, 1, 2}, {31, 2, 2, 16}, {33, 6, 6, 64}, {65, 4, 2, 128}, {7, 3, 1, 34}, {0, 2, 2, 8}}) {
      for (const RotaryPairs pairs : {RotaryPairs::interleaved, RotaryPairs::half_split}) {
        for (const bool normed : {false, true}) {
          const int64_t half = c.head_dim / 2;
          const Tensor qkv = random_tensor(DType::f32, {c.tokens, (c.heads + 2 * c.kv_heads) * c.head_dim}, 1, -3, 3);
          const Tensor q_norm = random_tensor(DType::f32, {c.head_dim}, 2, 0.5f, 2),
                       k_norm = random_tensor(DType::f32, {c.head_dim}, 3, 0.5f, 2);
          Tensor cos(Device{}, DType::f32, {c.tokens, half}), sin(Device{}, DType::f32, {c.tokens, half});
          for (int64_t i = 0; i < c.tokens * half; ++i) {
            cos.data<float>()[i] = std::cos(static_cast<float>(i));
            sin.data<float>()[i] = std::sin(static_cast<float>(i));
          }
          Guarded q(dtype, {c.heads, c.tokens, c.head_dim}), k(dtype, {c.kv_heads, c.tokens, c.head_dim});
          Guarded v(dtype, {c.kv_heads, c.tokens, c.head_dim});
          const ConstView q_weight = normed ? ConstView(q_norm) : ConstView(),
                          k_weight = normed ? ConstView(k_norm) : ConstView();
          ops::split_heads_rope(ctx, qkv, {q_weight, k_weight, kEps, cos, sin, pairs},
                                std::array{ops::HeadGroup{q, k, v}});

          const auto split = [&](const Values& in, const Values& c_values, const Values& s_values) {
            return reference::split_heads_rope(in, values(q_weight), values(k_weight), kEps, c_values, s_values, pairs,
                                               c.tokens, c.heads, c.kv_heads, c.head_dim);
          };
          const reference::Heads expected = split(values(qkv), values(cos), values(sin));
          // Every term positive: |a c| + |b s| and, for the second of a pair, |a s| + |b c|. The first has a minus,
          // hence -|s|.
          reference::Heads sums = split(reference::absolute(values(qkv)), reference::absolute(values(cos)),
                                        reference::absolute(values(sin)));
          Values minus = reference::absolute(values(sin));
          for (double& value : minus) value = -value;
          const reference::Heads other =
              split(reference::absolute(values(qkv)), reference::absolute(values(cos)), minus);
          const double relative = sum_error(c.head_dim) / 2 + 11 * kUnitF32;
          const auto compare = [&](Guarded& actual, const Values& wanted, const Values& plus, const Values& less,
                                   const char* what) {
            Values bound(wanted.size());
            for (size_t i = 0; i < bound.size(); ++i) {
              bound[i] = std::max(std::abs(plus[i]), std::abs(less[i])) * relative + std::abs(wanted[i]) * unit(dtype);
            }
            worst(dtype,
                  expect_within(actual, wanted, bound,
                                fmt::format("{} {} tokens {} width {}", what, name(dtype), c.tokens, c.head_dim)));
            actual.expect_guards_untouched();
          };
          compare(q, expected.q, sums.q, other.q, "q");
          compare(k, expected.k, sums.k, other.k, "k");
          for (double& value : sums.v) value = 0;
          compare(v, expected.v, sums.v, sums.v, "v");
        }
      }
    }
  }
}

TEST(SplitHeadsRope, WithoutTablesSplitsAlone) {
  Context ctx({}, 2);
  for (const int64_t tokens : {1, 33}) {
    const Tensor qkv = random_tensor(DType::f32, {tokens, 3 * 2 * 5}, 1);
    Guarded q(DType::f32, {2, tokens, 5}), k(DType::f32, {2, tokens, 5}), v(DType::f32, {2, tokens, 5});
    ops::split_heads_rope(ctx, qkv, {}, std::array{ops::HeadGroup{q, k, v}});
    for (int64_t i = 0; i < qkv.shape().elements(); ++i) {
      const int64_t token = i / 30, head = i / 5 % 6;
      const ConstView to = head < 2 ? q : head < 4 ? k : v;
      EXPECT_EQ(value_at(to, (head % 2 * tokens + token) * 5 + i % 5), value_at(qkv, i));
    }
    for (Guarded* out : {&q, &k, &v}) out->expect_guards_untouched();
  }
}

// Heads dealt to groups, an empty one among them, are the heads of one group.
TEST(SplitHeadsRope, GroupsShareTheHeads) {
  Context ctx({}, 2);
  constexpr int64_t kTokens = 33, kWidth = 8;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor qkv = random_tensor(DType::f32, {kTokens, 15 * kWidth}, 1),
                 norm = random_tensor(DType::f32, {kWidth}, 2);
    const Tensor cos = random_tensor(DType::f32, {kTokens, kWidth / 2}, 3),
                 sin = random_tensor(DType::f32, {kTokens, kWidth / 2}, 4);
    Tensor whole(Device{}, dtype, {3, 5, kTokens, kWidth}), parts(Device{}, dtype, {3, 5, kTokens, kWidth});
    const auto group = [](Tensor& heads, int64_t first, int64_t count) {
      const auto part = [&](int64_t i) {
        return heads.view().rows(i, 1).reshape({5, kTokens, kWidth}).rows(first, count);
      };
      return ops::HeadGroup{part(0), part(1), part(2)};
    };
    const auto split = [&](std::span<const ops::HeadGroup> groups) {
      ops::split_heads_rope(ctx, qkv, {norm, norm, 1e-5f, cos, sin, RotaryPairs::interleaved}, groups);
    };
    split(std::array{group(whole, 0, 5)});
    split(std::array{group(parts, 0, 2), group(parts, 2, 0), group(parts, 2, 3)});
    EXPECT_TRUE(same_bits(whole, parts)) << name(dtype);
  }
}

// Token-major heads, and some heads of some tokens by themselves, are those of one head-major group; heads that nobody
// wants are passed over. Widths with and without vectors.
TEST(SplitHeadsRope, PackedGroupsAndPartsHoldTheSameHeads) {
  Context ctx({}, 2);
  constexpr int64_t kTokens = 33, kHeads = 5;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t width : {16, 10}) {
      const Tensor qkv = random_tensor(DType::f32, {kTokens, 3 * kHeads * width}, 1),
                   norm = random_tensor(DType::f32, {width}, 2);
      const Tensor cos = random_tensor(DType::f32, {kTokens, width / 2}, 3),
                   sin = random_tensor(DType::f32, {kTokens, width / 2}, 4);
      const auto split = [&](int64_t token, int64_t count, std::span<const ops::HeadGroup> groups) {
        ops::split_heads_rope(
            ctx, qkv.view().rows(token, count),
            {norm, norm, 1e-5f, cos.view().rows(token, count), sin.view().rows(token, count), RotaryPairs::interleaved},
            groups);
      };
      Tensor whole(Device{}, dtype, {3, kHeads, kTokens, width});
      const auto part = [&](int64_t i) { return whole.view().rows(i, 1).reshape({kHeads, kTokens, width}); };
      split(0, kTokens, std::array{ops::HeadGroup{part(0), part(1), part(2)}});
      const auto expect_heads = [&](Guarded& packed, int64_t first_head) {
        const Shape shape = packed.view().shape();
        const auto head_bytes = static_cast<size_t>(width) * size_bytes(dtype);
        for (int64_t row = 0; row < kTokens * 3 * shape[2]; ++row) {
          const int64_t token = row / (3 * shape[2]), kind = row / shape[2] % 3, head = first_head + row % shape[2];
          const int64_t from = (kind * kHeads + head) * kTokens + token;
          ASSERT_EQ(std::memcmp(packed.view().bytes() + static_cast<size_t>(row) * head_bytes,
                                whole.view().bytes() + static_cast<size_t>(from) * head_bytes, head_bytes),
                    0)
              << name(dtype) << " width " << width << " token " << token << " kind " << kind << " head " << head;
        }
        packed.expect_guards_untouched();
      };
      const auto packed = [](View rows) { return ops::HeadGroup{{}, {}, {}, rows}; };
      Guarded few(dtype, {kTokens, 3, 2, width}), none(dtype, {kTokens, 3, 0, width}),
          more(dtype, {kTokens, 3, 3, width});
      split(0, kTokens, std::array{packed(few), packed(none), packed(more)});
      expect_heads(few, 0);
      expect_heads(more, 2);

      // The middle heads alone, in two runs of tokens whose second comes first.
      Guarded middle(dtype, {kTokens, 3, 2, width});
      const auto nowhere = [&](int64_t heads, int64_t count) {
        return packed(View(nullptr, dtype, {count, 3, heads, width}));
      };
      for (const auto& [token, count] : {std::pair<int64_t, int64_t>{20, 13}, {0, 20}}) {
        split(token, count, std::array{nowhere(1, count), packed(middle.view().rows(token, count)), nowhere(2, count)});
      }
      expect_heads(middle, 1);
      EXPECT_NO_THROW(split(0, kTokens, std::array{nowhere(kHeads, kTokens)}));

      // Head-major and token-major side by side, among heads that nobody wants.
      Guarded q(dtype, {2, kTokens, width}), k(dtype, {2, kTokens, width}), v(dtype, {2, kTokens, width});
      Guarded last(dtype, {kTokens, 3, 1, width});
      const View left(nullptr, dtype, {2, kTokens, width});
      split(0, kTokens, std::array{ops::HeadGroup{left, left, left}, ops::HeadGroup{q, k, v}, packed(last)});
      EXPECT_TRUE(same_bits(q, part(0).rows(2, 2)) && same_bits(k, part(1).rows(2, 2)) &&
                  same_bits(v, part(2).rows(2, 2)));
      expect_heads(last, 4);
    }
  }
}

// Parts of the keys, merged in any order, give what all keys give: float32 rounds once more a merge. Measured:
// 0.006 of the bound for f32, 0.54 for bf16.
TEST(AttentionPart, MergedPartsEqualTheWhole) {
  constexpr int64_t kHeads = 3, kQueries = 70, kKeys = 133, kWidth = 32;
  Context ctx({}, 2);
  WorstError worst;
  for (const DType dtype : product_dtypes()) {
    const Tensor q = random_tensor(dtype, {kHeads, kQueries, kWidth}, 1, -2, 2),
                 k = random_tensor(dtype, {kHeads, kKeys, kWidth}, 2, -2, 2),
                 v = random_tensor(dtype, {kHeads, kKeys, kWidth}, 3);
    const auto keys_of = [&](const Tensor& all, int64_t first, int64_t count) {
      Tensor part(Device{}, dtype, {kHeads, count, kWidth});
      ops::copy_rows(ctx, all, part, std::array{ops::RowRun{first, 0, count}});
      return part;
    };
    const auto attend = [&](int64_t first, int64_t count, View out, View lse) {
      ops::attention_part(ctx, {q, keys_of(k, first, count), keys_of(v, first, count)}, 0.5f, out, lse);
    };
    const Values expected =
        reference::attention(values(q), values(k), values(v), 0.5, false, kHeads, kHeads, kQueries, kKeys, kWidth);
    const Values absolute = reference::attention(values(q), values(k), reference::absolute(values(v)), 0.5, false,
                                                 kHeads, kHeads, kQueries, kKeys, kWidth);
    const Case whole{kHeads, kHeads, kQueries, kKeys, kWidth, false};
    const double terms = largest_score(reference::absolute(values(q)), reference::absolute(values(k)), whole) * 0.5;
    const double error = 2 * (2 * sum_error(kWidth + 4) * terms + 2 * kExpError + sum_error(kKeys)) + 16 * kUnitF32;
    for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{0, 133}, {0, 1, 133}, {0, 64, 100, 133}}) {
      Guarded out(DType::f32, {kQueries, kHeads * kWidth}), lse(DType::f32, {kHeads, kQueries});
      Tensor part(Device{}, DType::f32, {kQueries, kHeads * kWidth}),
          part_lse(Device{}, DType::f32, {kHeads, kQueries});
      attend(cuts[0], cuts[1], out, lse);
      for (size_t i = 2; i < cuts.size(); ++i) {
        attend(cuts[i - 1], cuts[i] - cuts[i - 1], part, part_lse);
        ops::merge_attention(ctx, part, part_lse, out, lse);
      }
      Values bound(expected.size());
      for (size_t i = 0; i < bound.size(); ++i)
        bound[i] = absolute[i] * (error + (dtype == DType::bf16 ? kUnitBf16 : 0));
      worst(dtype, expect_within(out, expected, bound, fmt::format("{} in {} parts", name(dtype), cuts.size() - 1)));
      out.expect_guards_untouched();
      lse.expect_guards_untouched();
    }
  }
}

TEST(AttentionPart, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor q = random_tensor(DType::f32, {2, 4, 8}, 1);
  Guarded out(DType::f32, {4, 16}), lse(DType::f32, {2, 4}), wrong(DType::f32, {4, 2});
  EXPECT_NO_THROW(ops::attention_part(ctx, {q, q, q}, 1, out, lse));
  EXPECT_THROW(ops::attention_part(ctx, {q, q, q}, 1, out, wrong), Error);
  EXPECT_THROW(ops::merge_attention(ctx, out, lse, out, wrong), Error);
}

TEST(SplitHeadsRope, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor qkv = random_tensor(DType::f32, {4, 6 * 8}, 1), table = random_tensor(DType::f32, {4, 4}, 2);
  const Tensor norm = random_tensor(DType::f32, {8}, 3), short_table = random_tensor(DType::f32, {3, 4}, 2);
  Guarded q(DType::f32, {2, 4, 8}), k(DType::f32, {2, 4, 8}), v(DType::f32, {2, 4, 8}), wide(DType::f32, {3, 4, 8});
  const auto split = [&](ConstView q_norm, ConstView k_norm, ConstView cos, View q_out) {
    ops::split_heads_rope(ctx, qkv, {q_norm, k_norm, 1e-5f, cos, table, RotaryPairs::interleaved},
                          std::array{ops::HeadGroup{q_out, k, v}});
  };
  EXPECT_NO_THROW(split(norm, norm, table, q));
  EXPECT_THROW(split(norm, {}, table, q), Error);
  EXPECT_THROW(split(norm, norm, short_table, q), Error);
  EXPECT_THROW(split(norm, norm, table, wide), Error);
  Guarded packed(DType::f32, {4, 3, 1, 8}), too_many(DType::f32, {4, 3, 3, 8}), flat(DType::f32, {4, 6, 8});
  const auto pack = [&](View first, View second) {
    ops::split_heads_rope(ctx, qkv, {norm, norm, 1e-5f, table, table, RotaryPairs::interleaved},
                          std::array{ops::HeadGroup{{}, {}, {}, first}, ops::HeadGroup{{}, {}, {}, second}});
  };
  EXPECT_NO_THROW(pack(packed, packed));
  EXPECT_THROW(pack(packed, too_many), Error);
  EXPECT_THROW(pack(packed, flat), Error);
  EXPECT_THROW(pack(packed, View(packed.view().bytes(), DType::bf16, {4, 3, 1, 8})), Error);
}

}  // namespace
}  // namespace nostos
