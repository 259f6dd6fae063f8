// Tests that CUDA's ops take bf16 where a product has written bf16: as the same values in f32, bit for bit.
#include <gtest/gtest.h>

#include <array>

#include "cuda/gpu.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "ops/patches.h"

namespace nostos {
namespace {

constexpr float kEps = 1e-5f;

/// The same values in both dtypes on the GPU.
struct Both {
  Both(const Shape& shape, uint32_t seed, float low, float high)
      : bf16(on_gpu(random_tensor(DType::bf16, shape, seed, low, high))), f32(gpu().device(), DType::f32, shape) {
    ops::convert(gpu(), bf16, f32);
  }
  Tensor bf16, f32;
};

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

const std::vector<DType> kOutputs = {DType::f32, DType::bf16};

TEST(Bf16Inputs, SiluMul) {
  for (const DType dtype : kOutputs) {
    for (const int64_t ffn : {33, 1024}) {
      const Both x({67, 2 * ffn}, 1, -8, 8);
      Tensor a = gpu_tensor(dtype, {67, ffn}), b = gpu_tensor(dtype, {67, ffn});
      ops::silu_mul(gpu(), x.bf16, a);
      ops::silu_mul(gpu(), x.f32, b);
      EXPECT_TRUE(same_bits(on_host(a), on_host(b))) << ffn;
    }
  }
}

TEST(Bf16Inputs, AddGatedRmsNorm) {
  for (const int64_t channels : {33, 384, 3840}) {
    const Both projected({67, channels}, 1, -3, 3);
    const Tensor weight = on_gpu(random_tensor(DType::f32, {channels}, 2)),
                 gate = on_gpu(random_tensor(DType::f32, {channels}, 3)),
                 before = random_tensor(DType::f32, {67, channels}, 4);
    Tensor a = on_gpu(before), b = on_gpu(before);
    ops::add_gated_rms_norm(gpu(), projected.bf16, {weight, gate, kEps}, a);
    ops::add_gated_rms_norm(gpu(), projected.f32, {weight, gate, kEps}, b);
    EXPECT_TRUE(same_bits(on_host(a), on_host(b))) << channels;
  }
}

TEST(Bf16Inputs, SplitHeadsRope) {
  constexpr int64_t kTokens = 33;
  for (const DType dtype : kOutputs) {
    for (const int64_t head_dim : {34, 64, 128}) {
      for (const ops::RotaryPairs pairs : {ops::RotaryPairs::interleaved, ops::RotaryPairs::half_split}) {
        const Both qkv({kTokens, 5 * head_dim}, 1, -3, 3);
        const Tensor norm = on_gpu(random_tensor(DType::f32, {head_dim}, 2, 0.5f, 2)),
                     cos = on_gpu(random_tensor(DType::f32, {kTokens, head_dim / 2}, 3)),
                     sin = on_gpu(random_tensor(DType::f32, {kTokens, head_dim / 2}, 4));
        const auto split = [&](ConstView in) {
          Tensor heads = gpu_tensor(dtype, {5, kTokens, head_dim});
          ops::split_heads_rope(
              gpu(), in, {norm, norm, kEps, cos, sin, pairs},
              std::array{ops::HeadGroup{heads.view().rows(0, 3), heads.view().rows(3, 1), heads.view().rows(4, 1)}});
          return on_host(heads);
        };
        EXPECT_TRUE(same_bits(split(qkv.bf16), split(qkv.f32))) << head_dim;
      }
    }
  }
}

// bf16 images are added four pixels at a time in float32: at most 3 roundings for each, 3 u of sums of terms of one
// sign.
TEST(Bf16Inputs, GroupNorm) {
  struct Case {
    int64_t height, width, channels, groups;
  };
  for (const Case& c : {Case{5, 7, 33, 3}, {3, 65, 96, 4}, {8, 40, 128, 32}, {4, 33, 512, 32}}) {
    const Both x({c.height, c.width, c.channels}, 1, 18, 22);
    const Tensor weight = on_gpu(random_tensor(DType::f32, {c.channels}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.channels}, 3));
    const auto sums_of = [&](ConstView image) {
      Tensor sums = gpu_tensor(DType::f64, {c.height, c.groups, 2});
      ops::group_norm_row_sums(gpu(), image, sums);
      return sums;
    };
    Tensor sums = sums_of(x.f32);
    const Values a = values(on_host(sums)), b = values(on_host(sums_of(x.bf16)));
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 3 * kUnitF32 * a[i]);
    for (const DType dtype : kOutputs) {
      Tensor from_bf16 = gpu_tensor(dtype, x.f32.shape()), from_f32 = gpu_tensor(dtype, x.f32.shape());
      ops::group_norm_apply(gpu(), x.bf16, sums, x.bf16.shape()[1], {weight, bias, kEps, true}, from_bf16);
      ops::group_norm_apply(gpu(), x.f32, sums, x.f32.shape()[1], {weight, bias, kEps, true}, from_f32);
      EXPECT_TRUE(same_bits(on_host(from_bf16), on_host(from_f32))) << c.channels;
    }
  }
}

TEST(Bf16Inputs, ImageMoves) {
  for (const int64_t channels : {3, 32}) {
    const Both x({5, 9, channels}, 1, -1.2f, 1.2f);
    for (const DType dtype : kOutputs) {
      Tensor a = gpu_tensor(dtype, {10, 18, channels}), b = gpu_tensor(dtype, {10, 18, channels});
      ops::upsample_nearest_2x(gpu(), x.bf16, a);
      ops::upsample_nearest_2x(gpu(), x.f32, b);
      EXPECT_TRUE(same_bits(on_host(a), on_host(b)));
    }
    Tensor a = gpu_tensor(DType::u8, x.f32.shape()), b = gpu_tensor(DType::u8, x.f32.shape());
    Tensor invalid = on_gpu(cleared_flag());
    ops::to_pixels(gpu(), x.bf16, a, invalid);
    ops::to_pixels(gpu(), x.f32, b, invalid);
    EXPECT_EQ(*on_host(invalid).data<int32_t>(), 0);
    EXPECT_TRUE(same_bits(on_host(a), on_host(b)));
  }
}

// More runs than one launch takes, of rows of every word size.
TEST(CopyRows, ManyRunsEqualTheCpu) {
  Context cpu({}, 1);
  std::vector<ops::RowRun> runs;
  for (int64_t i = 0; i < 300; ++i) runs.push_back({3 * i, 899 - 3 * i - i % 3, 1 + i % 3});
  for (const int64_t channels : {1, 2, 3, 8, 128}) {
    const Tensor from = random_tensor(DType::bf16, {3, 902, channels}, 1);
    Tensor expected = random_tensor(DType::bf16, {3, 905, channels}, 2);
    Tensor actual = on_gpu(expected);
    ops::copy_rows(gpu(), on_gpu(from), actual, runs);
    const Tensor copied = on_host(actual);
    ops::copy_rows(cpu, from, expected, runs);
    EXPECT_TRUE(same_bits(copied, expected)) << channels;
  }
}

}  // namespace
}  // namespace nostos
