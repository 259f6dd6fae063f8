// Tests what a GPU's products of 8-bit numbers promise: sums equal to those of plain whole numbers, at the full
// model's widths, and rows that do not depend on each other.
#include "ops/int8_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cuda/gpu.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace nostos {
namespace {

struct Rounded {
  Tensor numbers, scales;
};

Rounded rounded(Context& ctx, ConstView x, int64_t rotation) {
  Rounded made{Tensor(ctx.device(), DType::i8, x.shape()), Tensor(ctx.device(), DType::f32, {x.shape()[0]})};
  ops::quantise_rows(ctx, x, rotation, made.numbers, made.scales);
  return made;
}

Int8Weight weight_of(const Rounded& of, int64_t rotation) { return {rotation, of.numbers.view(), of.scales.view()}; }

TEST(CudaInt8, RowsAreRoundedAsOnTheCpu) {
  Context cpu({}, 2);
  for (const int64_t in : {256, 512, 2560, 3840, 10240})
    for (const int64_t rotation : {0, 16, 256})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        Tensor x = random_tensor(dtype, {7, in}, 3);
        std::memset(x.view().rows(5, 1).bytes(), 0, x.view().rows(5, 1).size_in_bytes());
        const Rounded wanted = rounded(cpu, x, rotation), made = rounded(gpu(), on_gpu(x), rotation);
        EXPECT_TRUE(same_bits(wanted.scales, on_host(made.scales))) << in << " " << rotation << " " << name(dtype);
        EXPECT_TRUE(same_bits(wanted.numbers, on_host(made.numbers))) << in << " " << rotation << " " << name(dtype);
      }
}

// A norm that is rounded where it is made has the bits of one that is written first: which of the two a row gets may
// depend on the rows beside it.
TEST(CudaInt8, NormsAreRoundedWhereTheyAreMadeAsAfterwards) {
  for (const int64_t channels : {256, 512, 768, 2560, 3840, 4096})
    for (const int64_t rows : {1, 37, 700}) {
      const std::string at = std::to_string(rows) + " x " + std::to_string(channels);
      Tensor stream = random_tensor(DType::f32, {rows, channels}, 1);
      if (rows > 8) {
        stream.data<float>()[3 * channels + 5] = std::numeric_limits<float>::quiet_NaN();
        stream.data<float>()[4 * channels + 5] = std::numeric_limits<float>::infinity();
        std::fill_n(stream.data<float>() + 5 * channels, channels, 0.f);
        stream.data<float>()[6 * channels + 7] = 3000;
      }
      Tensor added = random_tensor(DType::bf16, {rows, channels}, 2), no_bias(Device{}, DType::f32, {channels});
      std::fill_n(no_bias.data<float>(), channels, 0.f);
      if (rows > 8) std::memset(added.view().rows(5, 1).bytes(), 0, added.view().rows(5, 1).size_in_bytes());
      const Tensor projected = on_gpu(added), weight = on_gpu(random_tensor(DType::f32, {channels}, 3)),
                   scale = on_gpu(random_tensor(DType::f32, {channels}, 4)), zeros = on_gpu(no_bias);
      ASSERT_TRUE(ops::rounds_next_norm(gpu().device(), channels));
      const auto run = [&](bool gated_norm, View x, const ops::NextNorm& next) {
        if (gated_norm) return ops::add_gated_rms_norm(gpu(), projected, {weight, scale, 1e-5f}, x, next);
        ops::add_gated(gpu(), projected, {zeros, scale, 1e-5f}, x, next);
      };
      for (const bool gated_norm : {true, false}) {
        Tensor plain = on_gpu(stream), fused = on_gpu(stream), normed(gpu().device(), DType::bf16, {rows, channels});
        run(gated_norm, plain, {weight, scale, normed});
        const Rounded wanted = rounded(gpu(), normed, 256);
        Rounded made{Tensor(gpu().device(), DType::i8, {rows, channels}), Tensor(gpu().device(), DType::f32, {rows})};
        run(gated_norm, fused, {weight, scale, made.numbers, made.scales});
        EXPECT_TRUE(same_bits(on_host(plain), on_host(fused))) << at;
        EXPECT_TRUE(same_bits(on_host(wanted.scales), on_host(made.scales))) << at;
        EXPECT_TRUE(same_bits(on_host(wanted.numbers), on_host(made.numbers))) << at;
      }
    }
}

TEST(CudaInt8, SumsAreThoseOfWholeNumbers) {
  // Half of the distance between the bf16 numbers above 1; a little more, for two ways to exp().
  constexpr float kBf16Rounding = 0x1p-8f * 1.001f;
  Context cpu({}, 2);
  for (const auto& [rows, in, out] :
       {std::array<int64_t, 3>{1, 256, 16}, {65, 512, 208}, {130, 3840, 384}, {33, 10240, 208}}) {
    const Rounded x = rounded(cpu, random_tensor(DType::bf16, {rows, in}, 1), 256);
    const Rounded w = rounded(cpu, random_tensor(DType::bf16, {out, in}, 2), 256);
    Tensor wanted(Device{}, DType::f32, {rows, out});
    ops::int8_linear(cpu, {x.numbers, x.scales}, weight_of(w, 256), wanted);
    const Rounded gpu_x{on_gpu(x.numbers), on_gpu(x.scales)}, gpu_w{on_gpu(w.numbers), on_gpu(w.scales)};
    Tensor y(gpu().device(), DType::bf16, {rows, out});
    ops::int8_linear(gpu(), {gpu_x.numbers, gpu_x.scales}, weight_of(gpu_w, 256), y);
    const Tensor made = on_host(y);
    for (int64_t i = 0; i < rows * out; ++i)
      ASSERT_EQ(to_float(made.data<bfloat16>()[i]), to_float(to_bfloat16(wanted.data<float>()[i])))
          << rows << " x " << in << " x " << out << " at " << i;
    if (ops::capabilities(gpu().device()).gated_multiple == 0) continue;
    Tensor gated(gpu().device(), DType::bf16, {rows, out / 2});
    ops::int8_gated_linear(gpu(), {gpu_x.numbers, gpu_x.scales}, weight_of(gpu_w, 256), {}, gated);
    const Tensor made_gated = on_host(gated);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = 0; j < out / 2; ++j) {
        const float* of_row = wanted.data<float>() + row * out + j / 8 * 16 + j % 8;
        const float value = of_row[8] * of_row[0] / (1 + std::exp(-of_row[0]));
        ASSERT_NEAR(to_float(made_gated.data<bfloat16>()[row * out / 2 + j]), value,
                    std::abs(value) * kBf16Rounding + 1e-6f);
      }
  }
}

TEST(CudaInt8, RowsDoNotDependOnTheirNumber) {
  const Rounded w = rounded(gpu(), on_gpu(random_tensor(DType::bf16, {3840, 3840}, 2)), 256);
  const Tensor x = on_gpu(random_tensor(DType::bf16, {4128, 3840}, 1));
  const auto product = [&](int64_t first, int64_t count) {
    const Rounded rows = rounded(gpu(), x.view().rows(first, count), 256);
    Tensor y(gpu().device(), DType::bf16, {count, 3840});
    ops::int8_linear(gpu(), {rows.numbers, rows.scales}, weight_of(w, 256), y);
    return on_host(y);
  };
  const Tensor all = product(0, 4128);
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>{0, 1}, {17, 33}, {1000, 130}, {2064, 2064}, {3611, 517}})
    EXPECT_TRUE(same_bits(all.view().rows(first, count), product(first, count))) << first << " + " << count;
}

}  // namespace
}  // namespace nostos
