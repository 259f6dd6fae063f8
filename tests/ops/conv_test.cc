// Tests convolutions against the reference.
#include "ops/conv.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/error.h"
#include "ops/patches.h"
#include "ops/support.h"

namespace nostos {
namespace {

struct Case {
  int64_t height, width, in, out, kernel, stride;
  Padding pad;
  bool accumulate;
};

// 3x3 and 1x1 of the VAE, its first (16) and last (3) channels, the encoder's stride 2 with padding below and right
// alone, single pixels.
const std::vector<Case> kCases = {
    {1, 1, 1, 1, 1, 1, {}, false},
    {1, 1, 4, 5, 3, 1, {1, 1, 1, 1}, false},
    {5, 31, 16, 33, 3, 1, {1, 1, 1, 1}, false},
    {8, 32, 32, 3, 3, 1, {1, 1, 1, 1}, false},
    {7, 33, 31, 65, 3, 1, {1, 1, 1, 1}, true},
    {9, 9, 64, 32, 1, 1, {}, true},
    {8, 10, 32, 32, 3, 2, {0, 0, 1, 1}, false},
    {9, 11, 3, 64, 3, 2, {0, 0, 1, 1}, false},
    {6, 8, 16, 16, 3, 1, {0, 1, 0, 1}, false},
    {6, 8, 16, 16, 3, 1, {1, 1, 0, 1}, true},
};

// As a matrix product with kernel^2 * in terms.
// Measured: 0.12 of the bound for f32, 0.04 for bf16.
TEST(Conv2d, EqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : product_dtypes()) {
    for (const Case& c : kCases) {
      const Tensor x = random_tensor(dtype, {c.height, c.width, c.in}, 1),
                   filter = random_tensor(dtype, {c.out, c.in, c.kernel, c.kernel}, 2);
      const Tensor bias = random_tensor(DType::f32, {c.out}, 3);
      const Conv2d packed = ops::pack_conv2d(ctx, filter, bias);
      EXPECT_GE(packed.size_in_bytes(), filter.size_in_bytes());
      const auto convolve = [&](const Values& in, const Values& weights, const Values& offsets) {
        return reference::conv2d(in, weights, offsets, c.height, c.width, c.in, c.out, c.kernel, c.stride, c.pad);
      };
      Values expected = convolve(values(x), values(filter), values(bias));
      Values bound = convolve(reference::absolute(values(x)), reference::absolute(values(filter)),
                              reference::absolute(values(bias)));
      const int64_t height = (c.height + c.pad.top + c.pad.bottom - c.kernel) / c.stride + 1;
      const int64_t width = (c.width + c.pad.left + c.pad.right - c.kernel) / c.stride + 1;
      const Tensor before = random_tensor(DType::f32, {height, width, c.out}, 4);
      Guarded y(DType::f32, {height, width, c.out});
      if (c.accumulate) copy_bytes(before, y);
      ops::conv2d(ctx, x, packed, {c.stride, c.pad, c.accumulate}, y);
      const Values old = values(before);
      for (size_t i = 0; i < expected.size(); ++i) {
        if (c.accumulate) expected[i] += old[i], bound[i] += std::abs(old[i]);
        bound[i] *= sum_error(c.in * c.kernel * c.kernel);
      }
      worst(dtype, expect_within(y, expected, bound,
                                 fmt::format("{} {}x{} {}->{} kernel {} stride {}", name(dtype), c.height, c.width,
                                             c.in, c.out, c.kernel, c.stride)));
      y.expect_guards_untouched();
    }
  }
}

// In parts of the rows as ranks have them: the first with the row below, one inside, the last.
TEST(Conv2d, UpsamplingEqualsAConvolutionOfTheDoubledImage) {
  Context ctx({}, 2);
  constexpr int64_t kHeight = 7, kWidth = 5, kIn = 16, kOut = 6;
  for (const DType dtype : product_dtypes()) {
    const Tensor x = random_tensor(DType::f32, {kHeight, kWidth, kIn}, 1), bias = random_tensor(DType::f32, {kOut}, 3),
                 weights = random_tensor(dtype, {kOut, kIn, 3, 3}, 2);
    Tensor doubled({}, dtype, {2 * kHeight, 2 * kWidth, kIn});
    ops::upsample_nearest_2x(ctx, x, doubled);
    Tensor expected({}, DType::f32, {2 * kHeight, 2 * kWidth, kOut});
    ops::conv2d(ctx, doubled, ops::pack_conv2d(ctx, weights, bias), {1, {1, 1, 1, 1}}, expected);
    const Conv2d filter = ops::pack_upsampling_conv2d(ctx, weights, bias);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, kHeight}, {0, 1}, {2, 3}, {6, 1}}) {
      const int64_t above = std::min<int64_t>(1, first), below = std::min<int64_t>(1, kHeight - first - count);
      const ConstView slab = x.view().rows(first - above, count + above + below);
      const Padding padding{1 - above, 1, 1 - below, 1};
      Tensor scratch({}, dtype, {ops::upsampling_scratch(slab.shape(), filter, padding).elements()});
      Guarded y(DType::f32, {2 * count, 2 * kWidth, kOut});
      ops::upsampling_conv2d(ctx, slab, filter, padding, scratch, y);
      EXPECT_TRUE(same_bits(y, expected.view().rows(2 * first, 2 * count))) << name(dtype) << " from row " << first;
      y.expect_guards_untouched();
      EXPECT_THROW(ops::upsampling_conv2d(ctx, slab, filter, padding, scratch.view().rows(0, 8), y), Error);
    }
  }
}

TEST(Conv2d, WrongShapesAndTypesAreRefused) {
  Context ctx({}, 1);
  const Tensor filter = random_tensor(DType::f32, {4, 3, 3, 3}, 1), bias = random_tensor(DType::f32, {4}, 2);
  const Conv2d packed = ops::pack_conv2d(ctx, filter, bias);
  const Tensor x = random_tensor(DType::f32, {5, 6, 3}, 3), other = random_tensor(DType::f32, {5, 6, 4}, 3);
  Guarded y(DType::f32, {5, 6, 4});
  EXPECT_NO_THROW(ops::conv2d(ctx, x, packed, {1, {1, 1, 1, 1}}, y));
  EXPECT_THROW(ops::conv2d(ctx, x, packed, {1, {}}, y), Error);
  EXPECT_THROW(ops::conv2d(ctx, other, packed, {1, {1, 1, 1, 1}}, y), Error);
  EXPECT_THROW(ops::conv2d(ctx, random_tensor(DType::bf16, {5, 6, 3}, 3), packed, {1, {1, 1, 1, 1}}, y), Error);
  EXPECT_THROW(ops::pack_conv2d(ctx, random_tensor(DType::f32, {4, 3, 3, 2}, 1), bias), Error);
  EXPECT_THROW(ops::pack_conv2d(ctx, filter, random_tensor(DType::f32, {3}, 1)), Error);
}

}  // namespace
}  // namespace nostos
