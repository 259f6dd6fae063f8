// Tests what CUDA's products with updates promise beyond tests/ops: bf16 results, terms added before they are rounded,
// row independence at full widths, and recordings.
#include "ops/linear_update.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/gpu.h"
#include "device/graph.h"
#include "ops/int8_linear.h"
#include "ops/updates.h"

namespace nostos {
namespace {

const UpdateKinds kLowRank{.low_rank = true};

bool sums_products() { return ops::capabilities(gpu().device()).summed_multiple > 0; }

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

Linear packed_weight(int64_t out, int64_t in) {
  return ops::pack_linear(gpu(), on_gpu(random_tensor(DType::bf16, {out, in}, 2)));
}

Linear with_update(int64_t out, int64_t in, const UpdateKinds& kinds, int64_t rank = 5) {
  Linear made = packed_weight(out, in);
  made.update = RandomUpdate(DType::bf16, out, in, kinds, rank).make(gpu());
  return made;
}

/// Expects the same bits of `op` for shares of `rows` rows. \param op (first row, rows, output of these)
void expect_independent_rows(int64_t rows, const Shape& shape, DType dtype,
                             const std::function<void(int64_t, int64_t, View)>& op, const std::string& what) {
  Tensor all = gpu_tensor(dtype, shape);
  op(0, rows, all);
  const Tensor whole = on_host(all);
  for (const int64_t first : {int64_t{0}, int64_t{17}, rows / 3, rows - 1}) {
    for (const int64_t most : {1, 130, 1377}) {
      const int64_t count = std::min(rows - first, most);
      Tensor part = gpu_tensor(dtype, {count, shape[1]});
      op(first, count, part);
      EXPECT_TRUE(same_bits(whole.view().rows(first, count), on_host(part)))
          << what << ", " << count << " from " << first;
    }
  }
}

/// The columns of both, side by side.
Tensor side_by_side(const Tensor& left, const Tensor& right) {
  const int64_t rows = left.shape()[0], a = left.shape()[1], b = right.shape()[1];
  Tensor made(Device{}, DType::bf16, {rows, a + b});
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(left.data<bfloat16>() + row * a, a, made.data<bfloat16>() + row * (a + b));
    std::copy_n(right.data<bfloat16>() + row * b, b, made.data<bfloat16>() + row * (a + b) + a);
  }
  return made;
}

// Where one kernel adds a low-rank term, the result is rounded once; elsewhere each term is added to a rounded sum.
// Ranks that are filled up to 8 and others, rows below, at and above tiles.
TEST(CudaLinearUpdate, Bf16ResultsEqualTheReference) {
  struct Case {
    int64_t rows, in, out, rank;
  };
  for (const Case& c : {Case{1, 8, 8, 1}, {63, 64, 120, 5}, {129, 200, 192, 16}, {193, 80, 96, 77}, {65, 33, 48, 3}}) {
    for (const UpdateKinds& kinds : kUpdateKinds) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = random_tensor(DType::bf16, {c.rows, c.in}, 1),
                     before = random_tensor(DType::bf16, {c.rows, c.out}, 4);
        const RandomUpdate update(DType::bf16, c.out, c.in, kinds, c.rank);
        Linear weight = packed_weight(c.out, c.in);
        weight.update = update.make(gpu());
        Tensor y = on_gpu(before);
        ops::linear(gpu(), on_gpu(x), weight, y, accumulate);
        const RandomUpdate::Sums sums =
            update.sums(values(x), values(random_tensor(DType::bf16, {c.out, c.in}, 2)), c.rows);
        const bool once = kinds.scale || (!accumulate && ops::fuses_linear_sum(gpu().device(), weight, weight) &&
                                          weight.update->is_low_rank());
        const double roundings = static_cast<double>(weight.update->kronecker.size() + kinds.low_rank + kinds.dense);
        Values expected = sums.value, bound;
        for (size_t i = 0; i < expected.size(); ++i) {
          const double old = accumulate ? value_at(before, static_cast<int64_t>(i)) : 0;
          expected[i] += old;
          const double size = sums.size[i] + std::abs(old);
          bound.push_back(std::abs(expected[i]) * kUnitBf16 + size * sum_error(update.additions()) +
                          sums.rounded[i] * kUnitBf16 + (once ? 0 : roundings * size * kUnitBf16));
        }
        expect_within(on_host(y), expected, bound,
                      fmt::format("{}x{}x{} rank {}{}{}", c.rows, c.in, c.out, c.rank, to_string(kinds),
                                  accumulate ? ", accumulating" : ""));
      }
    }
  }
}

/// A weight of 8-bit numbers on the GPU, and the same on the host.
struct Int8Pair {
  Context cpu{{}, 2};
  Tensor numbers, scales, gpu_numbers, gpu_scales;

  Int8Pair(int64_t out, int64_t in)
      : numbers(Device{}, DType::i8, {out, in}), scales(Device{}, DType::f32, {out}), gpu_numbers(), gpu_scales() {
    ops::quantise_rows(cpu, random_tensor(DType::f32, {out, in}, 2), 16, numbers, scales);
    gpu_numbers = on_gpu(numbers), gpu_scales = on_gpu(scales);
  }
  Linear on_gpu_with(std::shared_ptr<const LinearUpdate> update) const {
    Linear made;
    made.in = numbers.shape()[1], made.out = numbers.shape()[0], made.input = DType::bf16;
    made.int8 = {16, gpu_numbers.view(), gpu_scales.view()};
    made.update = std::move(update);
    return made;
  }
  /// \return the product without an update, f32.
  Tensor product(ConstView x) {
    Tensor rounded(Device{}, DType::i8, x.shape()), of_rows(Device{}, DType::f32, {x.shape()[0]});
    ops::quantise_rows(cpu, x, 16, rounded, of_rows);
    Tensor y(Device{}, DType::f32, {x.shape()[0], numbers.shape()[0]});
    ops::int8_linear(cpu, {rounded, of_rows}, {16, numbers.view(), scales.view()}, y);
    return y;
  }
};

TEST(CudaLinearUpdate, UpdatesOfInt8ProductsEqualTheReference) {
  struct Case {
    int64_t rows, in, out, rank;
  };
  for (const Case& c : {Case{1, 16, 8, 1}, {63, 64, 120, 5}, {129, 208, 192, 16}, {193, 512, 208, 77}}) {
    Int8Pair pair(c.out, c.in);
    for (const UpdateKinds& kinds : kUpdateKinds) {
      for (const bool accumulate : {false, true}) {
        const Tensor x = random_tensor(DType::bf16, {c.rows, c.in}, 1),
                     before = random_tensor(DType::bf16, {c.rows, c.out}, 4), plain = pair.product(x);
        const RandomUpdate update(DType::bf16, c.out, c.in, kinds, c.rank);
        const Linear weight = pair.on_gpu_with(update.make(gpu()));
        Tensor y = on_gpu(before);
        ops::linear(gpu(), on_gpu(x), weight, y, accumulate);
        const RandomUpdate::Sums sums = update.sums(values(x), Values(static_cast<size_t>(c.out * c.in)), c.rows);
        const bool once = !accumulate && sums_products() && weight.update->is_low_rank();
        const double roundings =
            static_cast<double>(weight.update->kronecker.size() + kinds.low_rank + kinds.dense) + 2;
        Values expected = sums.value, bound;
        for (size_t i = 0; i < expected.size(); ++i) {
          const auto at = static_cast<int64_t>(i);
          const double base = value_at(plain, at) * update.scale(at % c.out);
          const double old = accumulate ? value_at(before, at) : 0;
          expected[i] += base + old;
          const double size = sums.size[i] + std::abs(base) + std::abs(old);
          bound.push_back(std::abs(expected[i]) * kUnitBf16 + size * sum_error(update.additions()) +
                          sums.rounded[i] * kUnitBf16 + (once ? 0 : roundings * size * kUnitBf16));
        }
        expect_within(on_host(y), expected, bound,
                      fmt::format("{}x{}x{} rank {}{}{}", c.rows, c.in, c.out, c.rank, to_string(kinds),
                                  accumulate ? ", accumulating" : ""));
      }
    }
  }
}

// The product and its term are float32 until gate and up meet.
TEST(CudaLinearUpdate, GatedInt8ProductsTakeALowRankTerm) {
  if (!sums_products()) GTEST_SKIP() << "no kernel of this GPU makes a sum of products";
  for (const int64_t rows : {1, 200}) {
    constexpr int64_t kIn = 256, kFfn = 200;
    Int8Pair pair(2 * kFfn, kIn);
    const RandomUpdate update(DType::bf16, 2 * kFfn, kIn, kLowRank, 16);
    const Tensor x = random_tensor(DType::bf16, {rows, kIn}, 1), plain = pair.product(x);
    Tensor out = gpu_tensor(DType::bf16, {rows, kFfn});
    ops::fused_gated_linear(gpu(), on_gpu(x), pair.on_gpu_with(update.make(gpu())), out);
    const RandomUpdate::Sums sums = update.sums(values(x), Values(static_cast<size_t>(2 * kFfn * kIn)), rows);
    Values expected, bound;
    for (int64_t i = 0; i < rows * kFfn; ++i) {
      const auto gate = static_cast<size_t>(i / kFfn * 2 * kFfn + i % kFfn / 8 * 16 + i % 8), up = gate + 8;
      const auto sum = [&](size_t at) { return value_at(plain, static_cast<int64_t>(at)) + sums.value[at]; };
      const auto error = [&](size_t at) {
        return sums.size[at] * sum_error(update.additions()) + sums.rounded[at] * kUnitBf16;
      };
      const double silu = reference::silu(sum(gate)), steepest = 1.1;
      expected.push_back(silu * sum(up));
      bound.push_back(steepest * error(gate) * (std::abs(sum(up)) + error(up)) + std::abs(silu) * error(up) +
                      std::abs(expected.back()) * (kUnitBf16 + 2e-6));
    }
    expect_within(on_host(out), expected, bound, fmt::format("{} rows", rows));
  }
}

// One kernel takes the terms of W and of up as a product with both side by side does, in the same groups of 16.
TEST(CudaLinearUpdate, AFusedTermIsOneProduct) {
  if (!sums_products()) GTEST_SKIP() << "no kernel of this GPU makes a sum of products";
  struct Case {
    int64_t rows, in, out, rank;
  };
  for (const Case& c : {Case{1, 16, 8, 16}, {400, 336, 3080, 48}, {4160, 3840, 3840, 16}}) {
    const Tensor x = random_tensor(DType::bf16, {c.rows, c.in}, 1),
                 weight = random_tensor(DType::bf16, {c.out, c.in}, 2),
                 down = random_tensor(DType::bf16, {c.rank, c.in}, 3),
                 up = random_tensor(DType::bf16, {c.out, c.rank}, 4);
    LinearUpdate update;
    update.low_rank = ops::make_low_rank(gpu(), widened(down), widened(up), DType::bf16);
    Tensor reduced = gpu_tensor(DType::bf16, {c.rows, c.rank});
    ops::linear(gpu(), on_gpu(x), update.low_rank.down, reduced);
    Linear updated = ops::pack_linear(gpu(), on_gpu(weight));
    updated.update = std::make_shared<const LinearUpdate>(std::move(update));
    Tensor fused = gpu_tensor(DType::bf16, {c.rows, c.out}), one = gpu_tensor(DType::bf16, {c.rows, c.out});
    ops::linear(gpu(), on_gpu(x), updated, fused);
    ops::linear(gpu(), on_gpu(side_by_side(x, on_host(reduced))),
                ops::pack_linear(gpu(), on_gpu(side_by_side(weight, up))), one);
    EXPECT_TRUE(same_bits(on_host(fused), on_host(one))) << c.rows << " rows, " << c.in << " to " << c.out;
  }
}

// A sum of products with terms on one of them or both: one kernel of up to four products where all are of low rank.
TEST(CudaLinearUpdate, SumsOfProductsEqualTheReference) {
  constexpr int64_t kRows = 193, kInA = 72, kInB = 200, kOut = 120;
  for (const UpdateKinds& kinds : {kLowRank, UpdateKinds{true, true, true, true}}) {
    for (const auto& [has_a, has_b] : {std::pair{true, false}, {false, true}, {true, true}}) {
      const Tensor x_a = random_tensor(DType::bf16, {kRows, kInA}, 1),
                   x_b = random_tensor(DType::bf16, {kRows, kInB}, 3);
      const RandomUpdate of_a(DType::bf16, kOut, kInA, has_a ? kinds : UpdateKinds{}, 5),
          of_b(DType::bf16, kOut, kInB, has_b ? kinds : UpdateKinds{}, 16);
      Linear a = packed_weight(kOut, kInA), b = packed_weight(kOut, kInB);
      if (has_a) a.update = of_a.make(gpu());
      if (has_b) b.update = of_b.make(gpu());
      const DType dtype = ops::linear_sum_dtype(gpu().device(), a, b);
      EXPECT_EQ(dtype, sums_products() && !kinds.dense ? DType::bf16 : DType::f32);
      const Tensor on_a = on_gpu(x_a), on_b = on_gpu(x_b);
      Tensor y = gpu_tensor(dtype, {kRows, kOut});
      ops::linear_sum(gpu(), on_a, a, on_b, b, y);
      const auto sums = [&](const RandomUpdate& update, const Tensor& x, int64_t in) {
        return update.sums(values(x), values(random_tensor(DType::bf16, {kOut, in}, 2)), kRows);
      };
      const RandomUpdate::Sums sums_a = sums(of_a, x_a, kInA), sums_b = sums(of_b, x_b, kInB);
      Values expected, bound;
      for (size_t i = 0; i < sums_a.value.size(); ++i) {
        expected.push_back(sums_a.value[i] + sums_b.value[i]);
        bound.push_back(std::abs(expected[i]) * unit(dtype) +
                        (sums_a.size[i] + sums_b.size[i]) * sum_error(of_a.additions() + of_b.additions()) +
                        (sums_a.rounded[i] + sums_b.rounded[i]) * kUnitBf16);
      }
      const std::string what = fmt::format("{} on {}{}", to_string(kinds), has_a ? "a" : "", has_b ? "b" : "");
      expect_within(on_host(y), expected, bound, what);
      expect_independent_rows(
          kRows, {kRows, kOut}, dtype,
          [&](int64_t first, int64_t count, View out) {
            ops::linear_sum(gpu(), on_a.view().rows(first, count), a, on_b.view().rows(first, count), b, out);
          },
          what);
    }
  }
}

TEST(CudaLinearUpdate, RowsDoNotDependOnTheirNumber) {
  constexpr int64_t kRows = 4160, kHidden = 3840;
  const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, kHidden}, 1));
  for (const UpdateKinds& kinds : {kLowRank, UpdateKinds{true, true, false, false}, {true, true, true, true}}) {
    const Linear weight = with_update(kHidden, kHidden, kinds, 16);
    for (const DType dtype : {DType::bf16, DType::f32}) {
      expect_independent_rows(
          kRows, {kRows, kHidden}, dtype,
          [&](int64_t first, int64_t count, View y) { ops::linear(gpu(), x.view().rows(first, count), weight, y); },
          fmt::format("{}{}", name(dtype), to_string(kinds)));
    }
  }
}

// The fused layer, whose terms one kernel adds if they are of low rank, and which goes in parts of rows if not.
TEST(CudaLinearUpdate, RowsOfAGatedLayerDoNotDependOnTheirNumber) {
  constexpr int64_t kRows = 4160, kHidden = 1024, kFfn = 5120;
  const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, kHidden}, 1));
  for (const UpdateKinds& kinds : {kLowRank, UpdateKinds{true, true, false, true}}) {
    const bool is_fused = ops::fuses_gated_linear(gpu().device(), DType::bf16, {kHidden, kFfn, false});
    const GatedLinear weight{with_update(2 * kFfn, kHidden, kinds, 32), is_fused};
    expect_independent_rows(
        kRows, {kRows, kFfn}, DType::bf16,
        [&](int64_t first, int64_t count, View out) {
          Tensor scratch = gpu_tensor(DType::bf16, {is_fused ? 1 : count, 2 * kFfn});
          ops::gated_linear(gpu(), x.view().rows(first, count), weight, is_fused ? View{} : scratch.view(), out);
        },
        to_string(kinds));
  }
}

// After one run nothing is allocated or measured, also for fewer rows.
TEST(CudaLinearUpdate, IsRecorded) {
  constexpr int64_t kRows = 300, kWidth = 192;
  const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, kWidth}, 1));
  for (const UpdateKinds& kinds : kUpdateKinds) {
    const Linear weight = with_update(kWidth, kWidth, kinds), gates = with_update(2 * kWidth, kWidth, kinds);
    const bool is_fused = ops::fuses_gated_linear(gpu().device(), DType::bf16, {kWidth, kWidth, false});
    const DType sum_dtype = ops::linear_sum_dtype(gpu().device(), weight, weight);
    Tensor scratch = gpu_tensor(DType::bf16, {kRows, 2 * kWidth});
    std::vector<std::vector<Tensor>> results(2);
    for (std::vector<Tensor>& of_run : results)
      for (const DType dtype : {DType::bf16, DType::bf16, sum_dtype})
        of_run.push_back(gpu_tensor(dtype, {kRows, kWidth}));
    const auto run = [&](std::vector<Tensor>& to, int64_t first, int64_t count) {
      const ConstView some = x.view().rows(first, count);
      const auto rows = [&](Tensor& tensor) { return tensor.view().rows(first, count); };
      ops::linear(gpu(), some, weight, rows(to[0]));
      ops::gated_linear(gpu(), some, {gates, is_fused}, is_fused ? View{} : rows(scratch), rows(to[1]));
      ops::linear_sum(gpu(), some, weight, some, weight, rows(to[2]));
    };
    run(results[0], 0, kRows);
    gpu().synchronize("test");
    const int64_t waits = gpu().host_waits();
    const Graph recorded = Graph::record(gpu(), [&] {
      run(results[1], 0, 100);
      run(results[1], 100, 200);
    });
    EXPECT_EQ(gpu().host_waits(), waits) << to_string(kinds);
    recorded.launch(gpu());
    for (size_t i = 0; i < results[0].size(); ++i)
      EXPECT_TRUE(same_bits(on_host(results[0][i]), on_host(results[1][i]))) << to_string(kinds) << " result " << i;
  }
}

}  // namespace
}  // namespace nostos
