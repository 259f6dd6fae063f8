// Tests what CUDA's convolutions promise beyond ops::conv2d(): bf16 results, and rows that do not depend on the
// slab's height at the decoder's channels.
#include "ops/conv.h"

#include <gtest/gtest.h>

#include <cstring>

#include "cuda/gpu.h"
#include "ops/patches.h"

namespace nostos {
namespace {

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

struct Case {
  int64_t height, width, in, out, kernel;
};

// Slabs with a halo row where there is a neighbour and padding where there is none.
TEST(CudaConv, RowsDoNotDependOnTheSlab) {
  for (const Case& c : {Case{50, 64, 512, 512, 3},
                        {50, 160, 256, 128, 3},
                        {50, 160, 128, 128, 3},
                        {50, 45, 16, 512, 3},
                        {50, 96, 512, 256, 1},
                        {50, 160, 3, 128, 3},
                        {50, 160, 128, 3, 3}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {c.height, c.width, c.in}, 1)),
                 filter = on_gpu(random_tensor(DType::bf16, {c.out, c.in, c.kernel, c.kernel}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d packed = ops::pack_conv2d(gpu(), filter, bias);
    const int64_t pad = c.kernel / 2;
    for (const DType dtype : {DType::bf16, DType::f32}) {
      for (const bool accumulate : {false, true}) {
        const Tensor before = random_tensor(dtype, {c.height, c.width, c.out}, 4);
        const auto convolve = [&](int64_t first, int64_t count) {
          const int64_t above = std::min(pad, first), below = std::min(pad, c.height - first - count);
          Tensor y = on_gpu(before.view().rows(first, count));
          ops::conv2d(gpu(), x.view().rows(first - above, count + above + below), packed,
                      {1, {pad - above, pad, pad - below, pad}, accumulate}, y);
          return on_host(y);
        };
        const Tensor whole = convolve(0, c.height);
        constexpr int64_t kRanks = 3;
        for (int64_t rank = 0; rank < kRanks; ++rank) {
          const int64_t first = c.height * rank / kRanks, count = c.height * (rank + 1) / kRanks - first;
          EXPECT_TRUE(same_bits(whole.view().rows(first, count), convolve(first, count)))
              << c.width << " pixels, " << c.in << " to " << c.out << " " << name(dtype) << " rank " << rank
              << (accumulate ? " adding" : "");
        }
      }
    }
  }
}

// As the decoder's stripes have them.
TEST(CudaConv, RowsOfZerosStandForPadding) {
  for (const Case& c :
       {Case{20, 160, 256, 128, 3}, {20, 160, 128, 128, 3}, {20, 160, 3, 128, 3}, {20, 160, 128, 3, 3}}) {
    const Tensor inner = random_tensor(DType::bf16, {c.height, c.width, c.in}, 1);
    Tensor framed(Device{}, DType::bf16, {c.height + 2, c.width, c.in});
    std::memset(framed.view().bytes(), 0, framed.size_in_bytes());
    std::memcpy(framed.view().rows(1, c.height).bytes(), inner.view().bytes(), inner.size_in_bytes());
    const Tensor filter = on_gpu(random_tensor(DType::bf16, {c.out, c.in, c.kernel, c.kernel}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d packed = ops::pack_conv2d(gpu(), filter, bias);
    const DType dtype = c.out == 3 ? DType::f32 : DType::bf16;
    Tensor padded = gpu_tensor(dtype, {c.height, c.width, c.out}), with_zeros = gpu_tensor(dtype, padded.shape());
    ops::conv2d(gpu(), on_gpu(inner), packed, {1, {1, 1, 1, 1}}, padded);
    ops::conv2d(gpu(), on_gpu(framed), packed, {1, {0, 1, 0, 1}}, with_zeros);
    EXPECT_TRUE(same_bits(on_host(padded), on_host(with_zeros))) << c.in << " to " << c.out;
  }
}

// On Hopper this runs the kernel of our own alone.
TEST(CudaConv, AddingToZerosChangesNothing) {
  for (const Case& c : {Case{9, 70, 72, 136, 3}, {5, 64, 128, 128, 1}, {3, 16, 8, 8, 3}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {c.height, c.width, c.in}, 1)),
                 filter = on_gpu(random_tensor(DType::bf16, {c.out, c.in, c.kernel, c.kernel}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d packed = ops::pack_conv2d(gpu(), filter, bias);
    const int64_t pad = c.kernel / 2;
    Tensor zeros(Device{}, DType::bf16, {c.height, c.width, c.out});
    std::memset(zeros.view().bytes(), 0, zeros.size_in_bytes());
    Tensor alone = gpu_tensor(DType::bf16, zeros.shape()), added = on_gpu(zeros);
    ops::conv2d(gpu(), x, packed, {1, {pad, pad, pad, pad}}, alone);
    ops::conv2d(gpu(), x, packed, {1, {pad, pad, pad, pad}, true}, added);
    EXPECT_TRUE(same_bits(on_host(alone), on_host(added))) << c.in << " to " << c.out;
  }
}

TEST(CudaConv, Bf16ResultsAreRoundedSums) {
  for (const Case& c : {Case{9, 33, 32, 64, 3},
                        {9, 33, 31, 5, 3},
                        {9, 64, 3, 128, 3},
                        {7, 8, 64, 32, 1},
                        {6, 131, 72, 136, 3},
                        {9, 64, 128, 264, 1}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {c.height, c.width, c.in}, 1)),
                 filter = on_gpu(random_tensor(DType::bf16, {c.out, c.in, c.kernel, c.kernel}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d packed = ops::pack_conv2d(gpu(), filter, bias);
    const int64_t pad = c.kernel / 2;
    Tensor exact = gpu_tensor(DType::f32, {c.height, c.width, c.out}), rounded = gpu_tensor(DType::bf16, exact.shape());
    ops::conv2d(gpu(), x, packed, {1, {pad, pad, pad, pad}}, exact);
    ops::conv2d(gpu(), x, packed, {1, {pad, pad, pad, pad}}, rounded);
    const Values expected = values(on_host(exact));
    const double terms = static_cast<double>(c.in * c.kernel * c.kernel);
    Values bound;
    for (const double value : expected)
      bound.push_back(std::abs(value) * kUnitBf16 + sum_error(c.in * c.kernel * c.kernel) * terms / 4);
    expect_within(on_host(rounded), expected, bound, fmt::format("{} to {}", c.in, c.out));
  }
}

/// \return upsampling_conv2d() of rows first to first + count - 1 of x, from a slab with the rows around them.
Tensor upsampled(const Conv2d& filter, ConstView x, int64_t first, int64_t count, DType dtype) {
  const int64_t above = std::min<int64_t>(1, first), below = std::min(int64_t{1}, x.shape()[0] - first - count);
  const ConstView slab = x.rows(first - above, count + above + below);
  const Padding padding{1 - above, 1, 1 - below, 1};
  Tensor scratch = gpu_tensor(filter.dtype, {ops::upsampling_scratch(slab.shape(), filter, padding).elements()});
  const int64_t out = filter.bias.elements() / (filter.kernel == 2 ? 4 : 1);
  Tensor y = gpu_tensor(dtype, {2 * count, 2 * x.shape()[1], out});
  ops::upsampling_conv2d(gpu(), slab, filter, padding, scratch, y);
  return on_host(y);
}

// Against the 3x3 convolution of the doubled image. The phases' taps are rounded once more: half an ulp of bf16 each.
TEST(CudaConv, UpsamplingByPhases) {
  for (const Case& c : {Case{9, 33, 32, 64, 3},
                        {1, 1, 8, 2, 3},
                        {7, 8, 64, 40, 3},
                        {1, 5, 16, 3, 3},
                        {6, 70, 72, 128, 3},
                        {1, 1, 8, 256, 3}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {c.height, c.width, c.in}, 1)),
                 weights = on_gpu(random_tensor(DType::bf16, {c.out, c.in, 3, 3}, 2)),
                 bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d filter = ops::pack_upsampling_conv2d(gpu(), weights, bias);
    EXPECT_EQ(filter.kernel, c.out % 2 == 0 ? 2 : 3) << c.out << " outputs";
    Tensor doubled = gpu_tensor(DType::bf16, {2 * c.height, 2 * c.width, c.in}),
           plain = gpu_tensor(DType::f32, {2 * c.height, 2 * c.width, c.out});
    ops::upsample_nearest_2x(gpu(), x, doubled);
    ops::conv2d(gpu(), doubled, ops::pack_conv2d(gpu(), weights, bias), {1, {1, 1, 1, 1}}, plain);
    const Values expected = values(on_host(plain));
    // Inputs and taps are within 1, and an output has nine taps a channel; then it is rounded to bf16.
    Values bound;
    for (const double value : expected)
      bound.push_back(std::abs(value) * kUnitBf16 + static_cast<double>(c.in) * 9 * kUnitBf16);
    expect_within(upsampled(filter, x, 0, c.height, DType::bf16), expected, bound,
                  fmt::format("{}x{} {} to {}", c.height, c.width, c.in, c.out));
  }
}

TEST(CudaConv, UpsampledRowsDoNotDependOnTheSlab) {
  for (const Case& c : {Case{32, 64, 512, 512, 3}, {20, 45, 256, 256, 3}, {3, 16, 16, 3, 3}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {c.height, c.width, c.in}, 1));
    const Tensor bias = on_gpu(random_tensor(DType::f32, {c.out}, 3));
    const Conv2d filter =
        ops::pack_upsampling_conv2d(gpu(), on_gpu(random_tensor(DType::bf16, {c.out, c.in, 3, 3}, 2)), bias);
    const Tensor whole = upsampled(filter, x, 0, c.height, DType::bf16);
    constexpr int64_t kRanks = 3;
    for (int64_t rank = 0; rank < kRanks; ++rank) {
      const int64_t first = c.height * rank / kRanks, count = c.height * (rank + 1) / kRanks - first;
      EXPECT_TRUE(same_bits(whole.view().rows(2 * first, 2 * count), upsampled(filter, x, first, count, DType::bf16)))
          << c.width << " pixels, " << c.in << " to " << c.out << " rank " << rank;
    }
  }
}

}  // namespace
}  // namespace nostos
