// Tests the vectorised inner loops of every instruction set that this CPU runs: the one chosen at run time is only one
// of them.
#include "ops/cpu/row_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>

#include "ops/support.h"

namespace nostos {
namespace {

using cpu::OutputKernels;
using cpu::RowKernels;

struct Table {
  const char* isa;
  const RowKernels* kernels;
};

std::vector<Table> tables() {
  __builtin_cpu_init();
  std::vector<Table> all = {{"baseline", &cpu::row_kernels_baseline}};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back({"avx2", &cpu::row_kernels_avx2});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    all.push_back({"avx512", &cpu::row_kernels_avx512});
  }
  return all;
}

Values scaled(Values values, double factor) {
  for (double& value : values) value = std::abs(value) * factor;
  return values;
}

const std::vector<int64_t> kLengths = {1, 7, 15, 16, 17, 31, 33, 65, 384};

template <class Out>
void expect_reference(const OutputKernels<Out>& kernels, DType dtype, const std::string& isa) {
  constexpr float kEps = 1e-5f;
  for (const int64_t n : kLengths) {
    const std::string what = fmt::format("{} {} {}", isa, name(dtype), n);
    const Tensor x = random_tensor(DType::f32, {n}, 1, -4, 4), weight = random_tensor(DType::f32, {n}, 2);
    const Tensor scale = random_tensor(DType::f32, {n}, 3);
    const float* in = x.data<float>();
    const double rounding = sum_error(n) + 8 * kUnitF32 + unit(dtype);
    Tensor out(Device{}, dtype, {n});

    kernels.rms_norm(in, weight.data<float>(), scale.data<float>(), kEps, n, out.data<Out>());
    const Values normed = reference::rms_norm(values(x), values(weight), values(scale), kEps, n);
    expect_within(out, normed, scaled(normed, rounding), "rms_norm " + what);

    kernels.scale(in, 0.3f, n, out.data<Out>());
    Values products = values(x);
    for (double& value : products) value *= static_cast<double>(0.3f);
    expect_within(out, products, scaled(products, kUnitF32 + unit(dtype)), "scale " + what);

    kernels.silu_mul(in, weight.data<float>(), n, out.data<Out>());
    Values gated = values(x);
    for (size_t i = 0; i < gated.size(); ++i) gated[i] = reference::silu(gated[i]) * values(weight)[i];
    expect_within(out, gated, scaled(gated, 4 * kUnitF32 + kExpError + unit(dtype)), "silu_mul " + what);

    // exp(scale * (x - max)): the exponent, up to 8 here, is rounded twice.
    const cpu::SoftmaxSum softmax = kernels.softmax_exp(in, 1.f, n, out.data<Out>());
    Values exponentials = values(x);
    const double top = *std::max_element(exponentials.begin(), exponentials.end());
    double expected_sum = 0;
    for (double& value : exponentials) expected_sum += value = std::exp(value - top);
    const double exp_rounding = 16 * kUnitF32 + kExpError;
    expect_within(out, exponentials, scaled(exponentials, exp_rounding + unit(dtype)), "softmax_exp " + what);
    EXPECT_EQ(static_cast<double>(softmax.top), top) << what;
    EXPECT_NEAR(static_cast<double>(softmax.sum), expected_sum, expected_sum * (exp_rounding + sum_error(n))) << what;
  }
}

TEST(RowKernels, EveryInstructionSetEqualsReference) {
  for (const Table& table : tables()) {
    expect_reference(table.kernels->to_f32, DType::f32, table.isa);
    expect_reference(table.kernels->to_bf16, DType::bf16, table.isa);
  }
}

TEST(RowKernels, EveryInstructionSetRoundsToBf16Alike) {
  std::vector<float> x;
  for (uint32_t high = 0; high < 0x10000; high += 3) {
    for (const uint32_t low : {0u, 0x7fffu, 0x8000u, 0x8001u}) x.push_back(std::bit_cast<float>(high << 16 | low));
  }
  const int64_t n = static_cast<int64_t>(x.size());
  for (const Table& table : tables()) {
    std::vector<bfloat16> rounded(x.size());
    table.kernels->to_bf16.scale(x.data(), 1.f, n, rounded.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(rounded[i].bits, to_bfloat16(x[i]).bits)
          << table.isa << " " << std::hex << std::bit_cast<uint32_t>(x[i]);
    }
    std::vector<float> back(x.size());
    table.kernels->bf16_to_f32(rounded.data(), n, back.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), static_cast<uint32_t>(rounded[i].bits) << 16) << table.isa;
    }
  }
}

TEST(RowKernels, ChoiceObeysTheEnvironmentsLimit) {
  const char* limit = std::getenv("ONEDNN_MAX_CPU_ISA");
  const bool limited = limit != nullptr && std::string(limit) == "AVX2";
  EXPECT_EQ(&cpu::row_kernels(),
            limited ? tables()[std::min<size_t>(1, tables().size() - 1)].kernels : tables().back().kernels);
}

}  // namespace
}  // namespace nostos
