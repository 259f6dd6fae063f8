// Tests that the GPU's noise has the bits of PyTorch's CUDA generator.
#include "ops/noise.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "cuda/gpu.h"
#include "device/cuda/runtime.h"
#include "io/safetensors.h"

namespace nostos {
namespace {

// The goldens are of an H200, whose approximate sine other generations may not share.
TEST(CudaNoise, EqualsTorchBitForBit) {
  if (cuda::device_properties(0).compute_capability != 90) GTEST_SKIP() << "the goldens are of compute capability 9.0";
  const char* moved = std::getenv("NOSTOS_SOURCE_DIR");  // of a program that was carried to another machine
  const std::string root = moved != nullptr ? moved : NOSTOS_SOURCE_DIR;
  const SafetensorsFile goldens(root + "/tests/data/torch_randn.safetensors");
  for (const char* name : {"cuda_seed42_1x16x32x32", "cuda_seed42_1x16x90x90"}) {
    const ConstView expected = goldens.tensor(name);
    Tensor made(gpu().device(), DType::f32, expected.shape());
    ops::philox_normal(gpu(), 42, made);
    EXPECT_TRUE(same_bits(on_host(made), expected)) << name;
  }
}

TEST(CudaNoise, ASecondDrawEqualsTorchBitForBit) {
  if (cuda::device_properties(0).compute_capability != 90) GTEST_SKIP() << "the goldens are of compute capability 9.0";
  const char* moved = std::getenv("NOSTOS_SOURCE_DIR");  // of a program that was carried to another machine
  const std::string root = moved != nullptr ? moved : NOSTOS_SOURCE_DIR;
  const SafetensorsFile goldens(root + "/tests/data/torch_randn.safetensors");
  const ConstView both = goldens.tensor("cuda_seed42_first_1x16x32x32_then_same");
  Tensor made(gpu().device(), DType::f32, both.shape());
  const int64_t size = both.elements() / 2;
  ops::philox_normal(gpu(), 42, View(made).rows(0, 1));
  ops::philox_normal(gpu(), 42, View(made).rows(1, 1), ops::philox_advance(size));
  EXPECT_TRUE(same_bits(on_host(made), both));
}

}  // namespace
}  // namespace nostos
