// Tests attention whose queries and keys are rounded to 8 bits on the CPU; tests/cuda has the GPU's.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/rounding.h"
#include "ops/attention.h"
#include "ops/support.h"

namespace nostos {
namespace {

using reference::at;

/// Heads rounded on the CPU.
struct Rounded {
  Tensor numbers, scales;
  int64_t shared_rows;

  Rounded(ConstView heads, const ops::HeadRounding& rounding)
      : numbers(Device{}, DType::i8, heads.shape()),
        scales(Device{}, DType::f32, {heads.shape()[0], divide_up(heads.shape()[1], rounding.shared_rows)}),
        shared_rows(rounding.shared_rows) {
    Context ctx({}, 2);
    ops::quantise_heads(ctx, heads, rounding, numbers, scales);
  }

  double number(int64_t i) const { return static_cast<double>(numbers.data<int8_t>()[i]); }
  /// \return the scale of a row of all heads.
  double scale(int64_t row) const {
    const int64_t tokens = numbers.shape()[1];
    return static_cast<double>(scales.data<float>()[row / tokens * scales.shape()[1] + row % tokens / shared_rows]);
  }
  /// \return what the numbers stand for.
  Values values() const {
    Values all;
    for (int64_t i = 0; i < numbers.shape().elements(); ++i) all.push_back(number(i) * scale(i / numbers.shape()[2]));
    return all;
  }
};

Tensor centres_of(ConstView k) {
  Context ctx({}, 2);
  Tensor centres(Device{}, DType::f32, {k.shape()[0], k.shape()[2]});
  ops::key_centres(ctx, k, centres);
  return centres;
}

// Up to 256 keys count all; of 257 and 600 every second and third.
TEST(RoundedAttention, CentresAreMeansOfEvenlySpacedKeys) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t keys : {1, 17, 256, 257, 600}) {
      const Tensor k = random_tensor(dtype, {2, keys, 12}, 1, -1, 3), centres = centres_of(k);
      const int64_t step = keys <= 256 ? 1 : keys <= 512 ? 2 : 3;
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t d = 0; d < 12; ++d) {
          double sum = 0;
          int64_t count = 0;
          for (int64_t key = 0; key < keys; key += step, ++count) sum += value_at(k, (head * keys + key) * 12 + d);
          ASSERT_NEAR(value_at(centres, head * 12 + d), sum / static_cast<double>(count), 1e-5)
              << name(dtype) << " " << keys << " keys, head " << head << " at " << d;
        }
      }
    }
  }
}

// A scale for each row, or for 80 and what is left.
TEST(RoundedAttention, RowsAreRoundedByTheirScale) {
  constexpr int64_t kHeads = 2, kTokens = 165, kWidth = 12;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Tensor heads = random_tensor(dtype, {kHeads, kTokens, kWidth}, 1, -2, 2);
    std::memset(heads.view().bytes(), 0, static_cast<size_t>(80 * kWidth) * size_bytes(dtype));
    const Tensor centres = random_tensor(DType::f32, {kHeads, kWidth}, 2);
    for (const bool centred : {false, true}) {
      for (const int64_t shared : {int64_t{1}, ops::kKeysAScale}) {
        const Rounded made(heads, {shared, centred ? ConstView(centres) : ConstView()});
        const auto wanted = [&](int64_t row, int64_t d) {
          const double centre = centred ? value_at(centres, row / kTokens * kWidth + d) : 0;
          return value_at(heads, row * kWidth + d) - centre;
        };
        for (int64_t row = 0; row < kHeads * kTokens; ++row) {
          const int64_t head = row / kTokens, first = row % kTokens / shared * shared;
          double largest = 0;
          for (int64_t other = first; other < std::min(first + shared, kTokens); ++other)
            for (int64_t d = 0; d < kWidth; ++d)
              largest = std::max(largest, std::abs(wanted(head * kTokens + other, d)));
          ASSERT_NEAR(made.scale(row), largest / 127, largest * 1e-7) << row << " of " << shared;
          for (int64_t d = 0; d < kWidth; ++d)
            ASSERT_NEAR(made.number(row * kWidth + d), largest > 0 ? wanted(row, d) / largest * 127 : 0, 0.5001)
                << row << " at " << d << " of " << shared;
        }
      }
    }
  }
}

// Attention to what the rounded numbers stand for: but for the softmax and the sum over keys, whose errors are those of
// attention_test.cc, nothing is rounded any more. Measured: 0.02 of the bound for f32, 0.44 for bf16.
TEST(RoundedAttention, IsThatOfTheRoundedNumbers) {
  struct Case {
    int64_t heads, kv_heads, queries, keys, width;
  };
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const Case& c :
         {Case{1, 1, 1, 1, 2}, {2, 2, 63, 31, 12}, {6, 3, 65, 130, 64}, {2, 1, 130, 300, 128}, {2, 2, 0, 5, 16}}) {
      const Tensor q = random_tensor(dtype, {c.heads, c.queries, c.width}, 1, -2, 2),
                   k = random_tensor(dtype, {c.kv_heads, c.keys, c.width}, 2, -1, 3),
                   v = random_tensor(dtype, {c.kv_heads, c.keys, c.width}, 3);
      const float scale = 1 / std::sqrt(static_cast<float>(c.width));
      Guarded out(dtype, {c.queries, c.heads * c.width});
      ops::attention(ctx, {q, k, v}, {scale, true}, false, out);
      const Tensor centres = centres_of(k);
      const Rounded rounded_q(q, {}), rounded_k(k, {ops::kKeysAScale, centres});
      const auto attend = [&](const Values& value) {
        return reference::attention(rounded_q.values(), rounded_k.values(), value, scale, false, c.heads, c.kv_heads,
                                    c.queries, c.keys, c.width);
      };
      const Values expected = attend(values(v)), of_absolute = attend(reference::absolute(values(v)));
      Values bound(expected.size());
      for (size_t i = 0; i < bound.size(); ++i) {
        // Scores are below 40 and err by three roundings of float32.
        bound[i] = of_absolute[i] * 2 * (3 * 40 * kUnitF32 + kExpError + sum_error(c.keys)) +
                   std::abs(expected[i]) * unit(dtype);
        if (dtype == DType::bf16) bound[i] += of_absolute[i] * kUnitBf16;
      }
      worst(dtype, expect_within(out, expected, bound,
                                 fmt::format("{} heads {} queries {} keys {} width {}", name(dtype), c.heads, c.queries,
                                             c.keys, c.width)));
      out.expect_guards_untouched();
    }
  }
}

// Keys far from zero, as models have them: without their centre taken off, rounding would lose most of what tells them
// apart. With it the result is as close as that of keys around zero, which scores the same.
TEST(RoundedAttention, WhatKeysHaveInCommonCostsNoPrecision) {
  constexpr int64_t kTokens = 200, kWidth = 64;
  Context ctx({}, 2);
  const Tensor q = random_tensor(DType::f32, {1, kTokens, kWidth}, 1, -2, 2),
               v = random_tensor(DType::f32, {1, kTokens, kWidth}, 3);
  const auto error_with = [&](float common) {
    Tensor k = random_tensor(DType::f32, {1, kTokens, kWidth}, 2);
    for (int64_t i = 0; i < k.shape().elements(); ++i) k.data<float>()[i] += i % kWidth < 4 ? common : 0.f;
    Tensor exact(Device{}, DType::f32, {kTokens, kWidth}), rounded(Device{}, DType::f32, {kTokens, kWidth});
    ops::attention(ctx, {q, k, v}, 0.125f, false, exact);
    ops::attention(ctx, {q, k, v}, {0.125f, true}, false, rounded);
    double error = 0;
    for (int64_t i = 0; i < kTokens * kWidth; ++i) error += std::pow(value_at(rounded, i) - value_at(exact, i), 2);
    return std::sqrt(error / (kTokens * kWidth));
  };
  const double of_none = error_with(0);
  EXPECT_GT(of_none, 1e-6);  // it rounds
  EXPECT_LT(of_none, 1e-3);
  EXPECT_LT(error_with(30), 1.2 * of_none);
}

TEST(RoundedAttention, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Tensor heads = random_tensor(DType::f32, {2, 4, 8}, 1);
  Tensor numbers(Device{}, DType::i8, {2, 4, 8}), scales(Device{}, DType::f32, {2, 4}),
      few(Device{}, DType::f32, {2, 3}), centres(Device{}, DType::f32, {2, 8}), out(Device{}, DType::f32, {4, 16});
  EXPECT_THROW(ops::quantise_heads(ctx, heads, {}, numbers, few), Error);
  EXPECT_THROW(ops::quantise_heads(ctx, heads, {1, scales}, numbers, scales), Error);
  EXPECT_THROW(ops::quantise_heads(ctx, heads, {2, {}}, numbers, scales), Error);
  EXPECT_THROW(ops::quantise_heads(ctx, heads, {ops::kKeysAScale, {}}, numbers, scales), Error);
  EXPECT_THROW(ops::quantise_heads(ctx, heads, {}, centres, scales), Error);
  EXPECT_THROW(ops::key_centres(ctx, heads, scales), Error);
  EXPECT_THROW(ops::attention(ctx, {heads, heads, heads}, {1, true}, true, out), Error);  // causal
}

}  // namespace
}  // namespace nostos
