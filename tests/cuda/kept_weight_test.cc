// Tests products with weights that stay as they are stored on the GPU: they have the bits of the packed weight's.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "cuda/gpu.h"
#include "device/graph.h"
#include "ops/stored_weight.h"

namespace nostos {
namespace {

constexpr int64_t kIn = 768;

/// A weight [out, in] on the GPU whose first rows are Q4_K and whose others are Q8_0, of random blocks.
class Stored {
 public:
  explicit Stored(int64_t out, int64_t in = kIn) : shape_{out, in} {
    const int64_t first = out / 2;
    add(StoredType::q4_k, 144, first, 0);
    add(StoredType::q8_0, 34, out - first, first);
  }

  Linear kept(DType input) const { return ops::keep_stored(gpu(), pieces_, shape_, input); }
  /// The same numbers, packed.
  Linear packed(DType input) const {
    Tensor numbers(gpu().device(), input, shape_);
    ops::dequantise(gpu(), pieces_, numbers);
    return ops::pack_linear(gpu(), numbers);
  }

 private:
  void add(StoredType type, int64_t block, int64_t rows, int64_t begin) {
    if (rows == 0) return;
    StoredMatrix matrix = StoredMatrix::whole({type}, rows, shape_[1], nullptr);
    Tensor bytes(Device{}, DType::u8, {static_cast<int64_t>(matrix.size_in_bytes())});
    uint32_t state = static_cast<uint32_t>(rows);
    for (int64_t i = 0; i < bytes.shape().elements(); ++i) {
      state = state * 1664525u + 1013904223u;
      bytes.data<uint8_t>()[i] = static_cast<uint8_t>(state >> 24);
      // Half-precision scales of about 2^-6 at the block's start.
      if (i % block < 4) bytes.data<uint8_t>()[i] = i % 2 == 1 ? 0x24 : bytes.data<uint8_t>()[i];
    }
    memory_.push_back(on_gpu(bytes));
    matrix.data = memory_.back().view().bytes();
    pieces_.push_back({matrix, begin, rows, rows});
  }

  Shape shape_;
  std::vector<Tensor> memory_;
  std::vector<StoredPiece> pieces_;
};

Tensor gpu_tensor(DType dtype, const Shape& shape) { return Tensor(gpu().device(), dtype, shape); }

TEST(CudaKeptWeight, ProductsAreThoseOfThePackedWeight) {
  for (const int64_t out : {64, 1000}) {
    const Stored weight(out);
    const Tensor bias = on_gpu(random_tensor(DType::f32, {out}, 3));
    for (const DType input : {DType::bf16, DType::f32}) {
      Linear kept = weight.kept(input), packed = weight.packed(input);
      EXPECT_EQ(kept.size_in_bytes(), 0u);
      for (const int64_t rows : {0, 1, 130}) {
        const Tensor x = on_gpu(random_tensor(input, {rows, kIn}, 1)),
                     before = random_tensor(DType::f32, {rows, out}, 4);
        for (const bool plain : {true, false}) {
          kept.bias = packed.bias = plain ? ConstView() : ConstView(bias);
          Tensor a = on_gpu(before), b = on_gpu(before);
          ops::linear(gpu(), x, kept, a, !plain);
          ops::linear(gpu(), x, packed, b, !plain);
          EXPECT_TRUE(same_bits(on_host(a), on_host(b))) << name(input) << " " << rows << " to " << out;
        }
        kept.bias = packed.bias = {};
        Tensor a = gpu_tensor(input, {rows, out}), b = gpu_tensor(input, {rows, out});
        ops::linear(gpu(), x, kept, a);
        ops::linear(gpu(), x, packed, b);
        EXPECT_TRUE(same_bits(on_host(a), on_host(b))) << name(input) << " " << rows << " to " << out;
      }
    }
  }
}

TEST(CudaKeptWeight, GatesAreThoseOfThePackedWeight) {
  constexpr int64_t kRows = 193, kFfn = 512;
  if (!ops::fuses_gated_linear(gpu().device(), DType::bf16, {kIn, kFfn, false})) GTEST_SKIP() << "gates are not fused";
  const Stored weight(2 * kFfn);
  const Tensor x = on_gpu(random_tensor(DType::bf16, {kRows, kIn}, 1));
  Tensor a = gpu_tensor(DType::bf16, {kRows, kFfn}), b = gpu_tensor(DType::bf16, {kRows, kFfn});
  ops::gated_linear(gpu(), x, {weight.kept(DType::bf16), true}, {}, a);
  ops::gated_linear(gpu(), x, {weight.packed(DType::bf16), true}, {}, b);
  EXPECT_TRUE(same_bits(on_host(a), on_host(b)));
}

// Each of the two kept, and both, whose numbers must not share memory.
TEST(CudaKeptWeight, SumsAreThoseOfThePackedWeights) {
  constexpr int64_t kRows = 193, kOut = 392, kInB = 1280;
  const Stored a(kOut), b(kOut, kInB);
  const Tensor x_a = on_gpu(random_tensor(DType::bf16, {kRows, kIn}, 1)),
               x_b = on_gpu(random_tensor(DType::bf16, {kRows, kInB}, 2));
  const Linear packed_a = a.packed(DType::bf16), packed_b = b.packed(DType::bf16);
  const DType dtype = ops::linear_sum_dtype(gpu().device(), packed_a, packed_b);
  Tensor expected = gpu_tensor(dtype, {kRows, kOut});
  ops::linear_sum(gpu(), x_a, packed_a, x_b, packed_b, expected);
  const Tensor whole = on_host(expected);
  for (const bool keep_a : {false, true}) {
    for (const bool keep_b : {false, true}) {
      Tensor y = gpu_tensor(dtype, {kRows, kOut});
      ops::linear_sum(gpu(), x_a, keep_a ? a.kept(DType::bf16) : packed_a, x_b, keep_b ? b.kept(DType::bf16) : packed_b,
                      y);
      EXPECT_TRUE(same_bits(whole, on_host(y))) << keep_a << keep_b;
    }
  }
}

// Numbers lie in memory that products share and that grows: one after the other, without a wait between them.
TEST(CudaKeptWeight, ProductsShareMemory) {
  Context ctx(gpu().device(), 1, gpu().cache());
  const Tensor x = on_gpu(random_tensor(DType::bf16, {65, kIn}, 1));
  gpu().synchronize("test");
  std::vector<Stored> weights;
  for (const int64_t out : {64, 640, 128, 3000, 64}) weights.emplace_back(out);
  std::vector<Tensor> found, expected;
  for (const Stored& weight : weights) {
    const Linear packed = weight.packed(DType::bf16);
    expected.push_back(gpu_tensor(DType::bf16, {65, packed.out}));
    ops::linear(gpu(), x, packed, expected.back());
    found.push_back(gpu_tensor(DType::bf16, {65, packed.out}));
  }
  gpu().synchronize("test");
  for (size_t i = 0; i < weights.size(); ++i) ops::linear(ctx, x, weights[i].kept(DType::bf16), found[i]);
  ctx.synchronize("test");
  for (size_t i = 0; i < weights.size(); ++i)
    EXPECT_TRUE(same_bits(on_host(found[i]), on_host(expected[i]))) << "weight " << i;
}

// A recording keeps the memory of its numbers, also when later products need more.
TEST(CudaKeptWeight, IsRecorded) {
  Context ctx(gpu().device(), 1, gpu().cache());
  const Stored small(64), large(2000);
  const Linear weight = small.kept(DType::bf16);
  const Tensor x = on_gpu(random_tensor(DType::bf16, {100, kIn}, 1));
  Tensor first = gpu_tensor(DType::bf16, {100, 64}), replayed = gpu_tensor(DType::bf16, {100, 64});
  Tensor more = gpu_tensor(DType::bf16, {100, 2000});
  gpu().synchronize("test");
  ops::linear(ctx, x, weight, first);
  ctx.synchronize("test");
  const Graph recorded = Graph::record(ctx, [&] {
    ops::linear(ctx, x, weight, replayed);
    EXPECT_THROW(ops::linear(ctx, x, large.kept(DType::bf16), more), Error);
  });
  ops::linear(ctx, x, large.kept(DType::bf16), more);
  ctx.synchronize("test");
  recorded.launch(ctx);
  ctx.synchronize("test");
  EXPECT_TRUE(same_bits(on_host(first), on_host(replayed)));
}

TEST(CudaKeptWeight, ScratchIsTheWholeWeight) {
  EXPECT_EQ(ops::stored_scratch_bytes({100, 768}, DType::bf16), 100u * 768u * 2u);
  EXPECT_EQ(ops::stored_scratch_bytes({1, 3}, DType::f32), 256u);
}

}  // namespace
}  // namespace nostos
