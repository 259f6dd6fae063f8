// Tests the CPU's noise against torch.randn's own values.
#include "pipeline/noise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/safetensors.h"

namespace nostos {
namespace {

const SafetensorsFile& goldens() {
  static const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/torch_randn.safetensors");
  return file;
}

std::vector<float> noise(uint64_t seed, size_t size) {
  std::vector<float> values(size);
  fill_torch_cpu_normal(seed, values);
  return values;
}

/// The seed of a golden's name "cpu_seed<S>_<shape>"; nothing for other names.
std::optional<uint64_t> golden_seed(const std::string& name) {
  const std::string prefix = "cpu_seed";
  if (!name.starts_with(prefix) || name.find("draws") != std::string::npos || name.find("first") != std::string::npos)
    return {};
  return std::stoull(name.substr(prefix.size()));
}

TEST(Noise, CpuGeneratorBitForBit) {
  int compared = 0;
  for (const auto& [name, info] : goldens().tensors()) {
    const std::optional<uint64_t> seed = golden_seed(name);
    if (!seed) continue;
    const ConstView expected = goldens().tensor(name);
    const std::vector<float> actual = noise(*seed, static_cast<size_t>(expected.elements()));
    for (size_t i = 0; i < actual.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected.data<float>()[i]))
          << name << " value " << i;
    }
    ++compared;
  }
  EXPECT_GE(compared, 30);
}

TEST(Noise, NoValuesIsValid) { EXPECT_NO_THROW(fill_torch_cpu_normal(1, {})); }

TEST(Noise, SeedsDifferInTheirLowerHalf) {
  EXPECT_NE(noise(1, 64), noise(2, 64));
  EXPECT_EQ(noise(1, 64), noise((uint64_t{1} << 32) + 1, 64));
}

TEST(Noise, NamesRoundTrip) {
  EXPECT_EQ(parse_rng(name(RngKind::torch_cpu)), RngKind::torch_cpu);
  EXPECT_EQ(parse_rng(name(RngKind::torch_cuda)), RngKind::torch_cuda);
  try {
    parse_rng("numpy");
    FAIL() << "an unknown name was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    EXPECT_NE(std::string(error.what()).find("torch-cuda"), std::string::npos);
  }
}

}  // namespace
}  // namespace nostos
