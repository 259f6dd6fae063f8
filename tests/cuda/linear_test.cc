// Tests what CUDA's matrix products promise beyond ops::linear(): bf16 results, and row independence at the full
// model's widths.
#include "ops/linear.h"

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda/gpu.h"
#include "device/graph.h"
#include "io/folder_cache.h"

namespace nostos {
namespace {

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

Linear packed_weight(DType dtype, int64_t out, int64_t in) {
  return ops::pack_linear(gpu(), on_gpu(random_tensor(dtype, {out, in}, 2)));
}

/// \return whether one kernel does: capabilities_test.cc holds that every Hopper GPU has it.
bool sums_products() { return ops::capabilities(gpu().device()).summed_multiple > 0; }

/// \return columns [first, first + count) of a bf16 matrix.
Tensor columns_of(const Tensor& matrix, int64_t first, int64_t count) {
  const int64_t rows = matrix.shape()[0], all = matrix.shape()[1];
  Tensor part(Device{}, DType::bf16, {rows, count});
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(matrix.data<bfloat16>() + row * all + first, count, part.data<bfloat16>() + row * count);
  return part;
}

// The rows of a picture dealt to ranks: the first of few, one in the middle, the last of an odd number.
TEST(CudaLinear, RowsDoNotDependOnTheirNumber) {
  constexpr int64_t kRows = 4128;
  struct Share {
    int64_t first, rows;
  };
  struct Width {
    int64_t in, out;
  };
  for (const Width& width : {Width{3840, 3840}, {10240, 3840}, {3840, 1024}, {2560, 6144}}) {
    const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, width.in}, 1));
    const Linear weight = packed_weight(DType::bf16, width.out, width.in);
    for (const DType dtype : {DType::bf16, DType::f32}) {
      Tensor all = gpu_tensor(dtype, {kRows, width.out});
      ops::linear(gpu(), x, weight, all);
      const Tensor whole = on_host(all);
      for (const Share& share :
           {Share{0, 1}, {17, 33}, {1000, 130}, {2064, 2064}, {1376, 1377}, {3611, 517}, {64, 1040}}) {
        Tensor part = gpu_tensor(dtype, {share.rows, width.out});
        ops::linear(gpu(), x.view().rows(share.first, share.rows), weight, part);
        EXPECT_TRUE(same_bits(whole.view().rows(share.first, share.rows), on_host(part)))
            << width.in << " to " << width.out << " " << name(dtype) << " rows " << share.first << " + " << share.rows;
      }
    }
  }
}

// The same of widths that end in the middle of a group of 16, whose sums are in another order.
TEST(CudaLinear, ASumOfProductsIsARoundedSum) {
  if (!sums_products()) GTEST_SKIP() << "no kernel of this GPU makes a sum of products";
  constexpr int64_t kRows = 193;
  struct Case {
    int64_t a_in, b_in, out;
  };
  for (const Case& c : {Case{8, 8, 8}, {72, 200, 1000}, {328, 24, 392}}) {
    const Tensor x_a = on_gpu(random_tensor(DType::bf16, {kRows, c.a_in}, 1)),
                 x_b = on_gpu(random_tensor(DType::bf16, {kRows, c.b_in}, 3));
    const Linear a = packed_weight(DType::bf16, c.out, c.a_in), b = packed_weight(DType::bf16, c.out, c.b_in);
    ASSERT_EQ(ops::linear_sum_dtype(gpu().device(), a, b), DType::bf16);
    Tensor exact = gpu_tensor(DType::f32, {kRows, c.out}), rounded = gpu_tensor(DType::bf16, {kRows, c.out});
    ops::linear(gpu(), x_a, a, exact);
    ops::linear(gpu(), x_b, b, exact, true);
    ops::linear_sum(gpu(), x_a, a, x_b, b, rounded);
    const Values expected = values(on_host(exact));
    const int64_t terms = c.a_in + c.b_in;
    Values bound;
    for (const double value : expected)
      bound.push_back(std::abs(value) * kUnitBf16 + sum_error(terms) * static_cast<double>(terms) / 4);
    expect_within(on_host(rounded), expected, bound, fmt::format("{} + {} to {}", c.a_in, c.b_in, c.out));
  }
}

// Rounding the float32 sum once: the two algorithms may sum in different orders.
TEST(CudaLinear, Bf16ResultsAreRoundedSums) {
  constexpr int64_t kRows = 65, kIn = 1024, kOut = 257;
  const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, kIn}, 1));
  const Linear weight = packed_weight(DType::bf16, kOut, kIn);
  Tensor exact = gpu_tensor(DType::f32, {kRows, kOut}), rounded = gpu_tensor(DType::bf16, {kRows, kOut});
  ops::linear(gpu(), x, weight, exact);
  ops::linear(gpu(), x, weight, rounded);
  const Values expected = values(on_host(exact));
  Values bound;
  for (const double value : expected) bound.push_back(std::abs(value) * kUnitBf16 + sum_error(kIn) * kIn / 4);
  expect_within(on_host(rounded), expected, bound, "bf16 product");
}

// A sum of two products takes the terms of one product with both weights side by side, in their order and in the same
// groups of 16: where one kernel makes it, the bits are those of the library's, whatever the rows. Rows below, at and
// above tiles of 64, 128 and 192; inputs that are no multiple of the 64 that a step takes, and full widths.
TEST(CudaLinear, ASumOfProductsIsOneProduct) {
  if (!sums_products()) GTEST_SKIP() << "no kernel of this GPU makes a sum of products";
  struct Case {
    int64_t rows, a_in, b_in, out;
  };
  for (const Case& c :
       {Case{1, 16, 16, 8}, {63, 64, 128, 200}, {129, 80, 200, 192}, {400, 336, 24, 3080}, {4608, 3072, 9216, 3072}}) {
    const std::string what = fmt::format("{} rows, {} + {} to {}", c.rows, c.a_in, c.b_in, c.out);
    const int64_t in = c.a_in + c.b_in;
    const Tensor x = random_tensor(DType::bf16, {c.rows, in}, 1), weight = random_tensor(DType::bf16, {c.out, in}, 2);
    const Tensor x_a = on_gpu(columns_of(x, 0, c.a_in)), x_b = on_gpu(columns_of(x, c.a_in, c.b_in));
    const Linear a = ops::pack_linear(gpu(), on_gpu(columns_of(weight, 0, c.a_in))),
                 b = ops::pack_linear(gpu(), on_gpu(columns_of(weight, c.a_in, c.b_in)));
    ASSERT_EQ(ops::linear_sum_dtype(gpu().device(), a, b), DType::bf16);
    Tensor sum = gpu_tensor(DType::bf16, {c.rows, c.out}), one = gpu_tensor(DType::bf16, {c.rows, c.out});
    ops::linear_sum(gpu(), x_a, a, x_b, b, sum);
    ops::linear(gpu(), on_gpu(x), ops::pack_linear(gpu(), on_gpu(weight)), one);
    const Tensor whole = on_host(sum);
    EXPECT_TRUE(same_bits(whole, on_host(one))) << what;
    for (const int64_t first : {int64_t{0}, c.rows / 3, c.rows - 1}) {
      const int64_t rows = std::min(c.rows - first, int64_t{130});
      Tensor part = gpu_tensor(DType::bf16, {rows, c.out});
      ops::linear_sum(gpu(), x_a.view().rows(first, rows), a, x_b.view().rows(first, rows), b, part);
      EXPECT_TRUE(same_bits(whole.view().rows(first, rows), on_host(part))) << what << " from " << first;
    }
  }
}

TEST(CudaLinear, BiasWithBf16ResultsIsRefused) {
  Linear weight = packed_weight(DType::bf16, 64, 64);
  const Tensor bias = on_gpu(random_tensor(DType::f32, {64}, 3)), x = on_gpu(random_tensor(DType::bf16, {8, 64}, 1));
  weight.bias = bias;
  Tensor y = gpu_tensor(DType::bf16, {8, 64});
  EXPECT_THROW(ops::linear(gpu(), x, weight, y), Error);
}

// What one process, here a context, has found out about products serves the next.
TEST(CudaLinear, PlansAreKeptOnDisk) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "nostos_plans";
  std::filesystem::remove_all(folder);
  const Tensor x = random_tensor(DType::bf16, {300, 192}, 1), w = random_tensor(DType::bf16, {192, 192}, 2);
  std::vector<Tensor> results;
  for (const bool is_first : {true, false}) {
    Context ctx(gpu().device(), 1, FolderCache::in(folder));
    Tensor on_gpu(ctx.device(), DType::bf16, x.shape()), weight(ctx.device(), DType::bf16, w.shape()),
        y(ctx.device(), DType::bf16, {300, 192});
    upload(ctx, x, on_gpu);
    upload(ctx, w, weight);
    ctx.synchronize("test");
    const Linear packed = ops::pack_linear(ctx, weight);
    const int64_t waits = ctx.host_waits();
    ops::linear(ctx, on_gpu, packed, y);
    EXPECT_EQ(ctx.host_waits() > waits, is_first);
    results.emplace_back(Device{}, DType::bf16, y.shape());
    download(ctx, y, results.back());
    ctx.synchronize("test");
  }
  EXPECT_TRUE(same_bits(results[0], results[1]));
  std::filesystem::remove_all(folder);
}

// What interleave_gates() does is what interleaved_rows() says.
TEST(CudaLinear, InterleavedRowsAreNamed) {
  constexpr int64_t kFfn = 48, kIn = 16;
  if (!ops::fuses_gated_linear(gpu().device(), DType::bf16, {kIn, kFfn, false})) GTEST_SKIP() << "gates are not fused";
  const Tensor weight = random_tensor(DType::bf16, {2 * kFfn, kIn}, 1);
  Tensor interleaved = gpu_tensor(DType::bf16, weight.shape());
  ops::interleave_gates(gpu(), on_gpu(weight), interleaved);
  const Tensor found = on_host(interleaved);
  int64_t from = 0;
  for (const NamedRows& rows : ops::interleaved_rows(gpu().device(), "gate", "up", kFfn)) {
    for (int64_t i = 0; i < rows.count; ++i, ++from)
      EXPECT_TRUE(same_bits(found.view().rows(rows.row(i), 1), weight.view().rows(from, 1))) << rows.name << " " << i;
  }
  EXPECT_EQ(from, 2 * kFfn);
}

// A graph replays a product that has run before, also with a number of rows that has not; a new product is an error,
// not a hang.
TEST(CudaLinear, IsRecorded) {
  constexpr int64_t kWidth = 192;
  const Linear weight = packed_weight(DType::bf16, kWidth, kWidth);
  const Tensor x = on_gpu(random_tensor(DType::bf16, {300, kWidth}, 1));
  Tensor first = gpu_tensor(DType::bf16, {300, kWidth}), replayed = gpu_tensor(DType::bf16, {300, kWidth});
  Tensor unplanned = gpu_tensor(DType::f32, {300, kWidth});
  ops::linear(gpu(), x, weight, first);
  gpu().synchronize("test");
  const Graph recorded = Graph::record(gpu(), [&] {
    ops::linear(gpu(), x.view().rows(0, 100), weight, replayed.view().rows(0, 100));
    ops::linear(gpu(), x.view().rows(100, 200), weight, replayed.view().rows(100, 200));
    EXPECT_THROW(ops::linear(gpu(), x, weight, unplanned), Error);
  });
  recorded.launch(gpu());
  EXPECT_TRUE(same_bits(on_host(first), on_host(replayed)));
}

}  // namespace
}  // namespace nostos
