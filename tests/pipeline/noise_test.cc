// Tests the CPU's noise against torch.randn's own values.
#include "pipeline/noise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
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

template <class T>
void expect_same_bits(std::span<const T> actual, ConstView expected, const std::string& name) {
  ASSERT_EQ(actual.size(), static_cast<size_t>(expected.elements())) << name;
  const T* const values = expected.data<T>();
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &values[i], sizeof(T)), 0)
        << name << " value " << i << ": " << to_float(actual[i]) << ", not " << to_float(values[i]);
  }
}

/// Draws as many values as `expected` has, of its type, and compares them.
template <class T>
void draw_and_compare(TorchCpuGenerator& generator, ConstView expected, const std::string& name) {
  std::vector<T> actual(static_cast<size_t>(expected.elements()));
  generator.normal(std::span<T>(actual));
  expect_same_bits<T>(actual, expected, name);
}

void draw_and_compare(TorchCpuGenerator& generator, ConstView expected, const std::string& name) {
  if (expected.dtype() == DType::bf16) return draw_and_compare<bfloat16>(generator, expected, name);
  draw_and_compare<float>(generator, expected, name);
}

TEST(Noise, Bfloat16OfTheCpuGeneratorBitForBit) {
  const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/torch_randn_bf16.safetensors");
  int compared = 0;
  for (const auto& [name, info] : file.tensors()) {
    if (name.find("mixed") != std::string::npos) continue;
    TorchCpuGenerator generator(std::stoull(name.substr(4)));
    draw_and_compare(generator, file.tensor(name), name);
    ++compared;
  }
  EXPECT_EQ(compared, 27);
}

TEST(Noise, DrawsOfBothTypesGoOnInOneGenerator) {
  const SafetensorsFile file(NOSTOS_SOURCE_DIR "/tests/data/torch_randn_bf16.safetensors");
  std::map<std::string, ConstView> draws;  // in order: one digit counts them
  for (const auto& [name, info] : file.tensors()) {
    if (name.find("mixed") != std::string::npos) draws.emplace(name, file.tensor(name));
  }
  EXPECT_EQ(draws.size(), 10u);
  TorchCpuGenerator generator(42);
  for (const auto& [name, expected] : draws) draw_and_compare(generator, expected, name);
}

TEST(Noise, FloatDrawsGoOnInOneGenerator) {
  const ConstView expected = goldens().tensor("cpu_seed42_draws_5_5_17_3_1");
  TorchCpuGenerator generator(42);
  std::vector<float> actual(static_cast<size_t>(expected.elements()));
  size_t begin = 0;
  for (const size_t size : {5, 5, 17, 3, 1}) {
    generator.normal(std::span(actual).subspan(begin, size));
    begin += size;
  }
  EXPECT_EQ(begin, actual.size());
  expect_same_bits<float>(actual, expected, "draws");
}

// diffusers draws the posterior's noise, the latents' noise and, with a mask, another posterior's from one generator.
TEST(Noise, DrawsOfAPictureAreDiffusersOwn) {
  const std::string folder = NOSTOS_SOURCE_DIR "/tests/data/image_input/";
  std::ifstream text(folder + "image_input.json");
  const nlohmann::json meta = nlohmann::json::parse(text);
  int drawn = 0, halves = 0;
  for (const auto& written : meta.at("cases")) {
    const std::string name = written.at("file").get<std::string>();
    const SafetensorsFile file(folder + name);
    TorchCpuGenerator generator(written.at("seed").get<uint64_t>());
    for (const char* draw : {"posterior_noise", "noise", "unused_noise"}) {
      if (!file.tensors().contains(draw)) continue;
      const ConstView expected = file.tensor(draw);
      draw_and_compare(generator, expected, name + " " + draw);
      ++drawn;
      halves += expected.dtype() == DType::bf16;
    }
  }
  EXPECT_EQ(drawn, 43);
  EXPECT_EQ(halves, 5);
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
