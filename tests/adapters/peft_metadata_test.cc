// Tests what PEFT's configuration says of scales.
#include "adapters/peft_metadata.h"

#include <gtest/gtest.h>

#include "adapters/adapter.h"
#include "adapters/adapter_models.h"
#include "adapters/memory_file.h"
#include "io/safetensors.h"
#include "io/test_files.h"

namespace nostos::test {
namespace {

constexpr const char* kKey = "lora_adapter_metadata";

/// \return the scale of the only update of a LoRA of rank 4 on `module` with this metadata.
double scale_with(const std::string& metadata, const std::string& module = "layers.0.attention.to_q") {
  MemoryFile file;
  file.add("transformer." + module + ".lora_A.weight", {4, 40});
  file.add("transformer." + module + ".lora_B.weight", {40, 4});
  file.set_metadata(kKey, metadata);
  const Adapter adapter = read_adapter(file, zimage_targets(tiny_zimage()));
  EXPECT_EQ(adapter.updates.size(), 1u);
  return adapter.updates.at(0).scale;
}

TEST(PeftMetadata, Scales) {
  EXPECT_EQ(scale_with("{}"), 1);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8})"), 2);
  EXPECT_EQ(scale_with(R"({"transformer.r": 4, "transformer.lora_alpha": 2})"), 0.5);
  EXPECT_EQ(scale_with(R"({"text_encoder.r": 4, "text_encoder.lora_alpha": 2})"), 1);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "use_rslora": true})"), 4);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attention.to_q": 16}})"), 4);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^layers.0.attention.to_q": 16}})"), 4);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^attention.to_q": 16}})"), 2);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_q": 16, "layers\\.0.x": 1}})"), 4);
  EXPECT_EQ(scale_with(R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"o_q": 16}})"), 2) << "an end after no dot";
}

TEST(PeftMetadata, AnAlphaInTheFileComesFirst) {
  MemoryFile file;
  file.add("layers.0.attention.to_q.lora_A.weight", {4, 40});
  file.add("layers.0.attention.to_q.lora_B.weight", {40, 4});
  file.add("layers.0.attention.to_q.alpha", {}, std::vector<float>{1});
  file.set_metadata(kKey, R"({"r": 4, "lora_alpha": 8})");
  EXPECT_EQ(read_adapter(file, zimage_targets(tiny_zimage())).updates.at(0).scale, 0.25);
}

// PEFT scales LoKr by alpha / r whatever its factors are; LyCORIS's files, which have no such metadata, by 1.
TEST(PeftMetadata, KroneckerFactorsInWhole) {
  MemoryFile file;
  file.add("layers.0.attention.to_q.lokr_w1", {4, 5});
  file.add("layers.0.attention.to_q.lokr_w2", {10, 8});
  const AdapterTargets targets = zimage_targets(tiny_zimage());
  EXPECT_EQ(read_adapter(file, targets).updates.at(0).scale, 1);
  file.set_metadata(kKey, R"({"r": 16, "alpha": 8, "rank_pattern": {"to_k": 4}})");
  EXPECT_EQ(read_adapter(file, targets).updates.at(0).scale, 0.5);
  file.set_metadata(kKey, R"({"r": 16, "alpha": 8, "rank_pattern": {"to_q": 4}})");
  EXPECT_EQ(read_adapter(file, targets).updates.at(0).scale, 2);
}

TEST(PeftMetadata, GgufSaysOneAlpha) {
  MemoryFile file("adapter.gguf");
  file.add("layers.0.attention.to_q.weight.lora_a", {4, 40});
  file.add("layers.0.attention.to_q.weight.lora_b", {40, 4});
  file.set_metadata("adapter.lora.alpha", "2.000000");
  const AdapterTargets targets = zimage_targets(tiny_zimage());
  EXPECT_EQ(read_adapter(file, targets).updates.at(0).scale, 0.5);
  for (const char* wrong : {"", "two", "nan", "2x", "inf"}) {
    file.set_metadata("adapter.lora.alpha", wrong);
    EXPECT_NE(message_of([&] { read_adapter(file, targets); }).find("adapter.lora.alpha"), std::string::npos);
  }
}

struct DamagedConfig {
  std::string metadata, named;
};

TEST(PeftMetadata, Damaged) {
  for (const DamagedConfig& c : {
           DamagedConfig{"", kKey},
           DamagedConfig{"[]", kKey},
           DamagedConfig{R"({"r": -1, "lora_alpha": 8})", "'r'"},
           DamagedConfig{R"({"r": 4, "lora_alpha": "8"})", "'lora_alpha'"},
           DamagedConfig{R"({"r": 4, "lora_alpha": 1e400})", kKey},
           DamagedConfig{R"({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_.": "x"}})", "to_."},
           DamagedConfig{R"_({"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_(q|k)": 2}})_", "to_(q|k)"},
           DamagedConfig{R"({"r": 4, "lora_alpha": 8, "rank_pattern": {"to_q": 0}})", "to_q"},
           DamagedConfig{R"({"r": 4, "lora_alpha": 8, "use_rslora": 1})", "use_rslora"},
       })
    EXPECT_NE(message_of([&] { scale_with(c.metadata); }).find(c.named), std::string::npos) << c.metadata;
}

using PeftFolder = FolderTest;

TEST_F(PeftFolder, AConfigBesideAdapterModel) {
  std::vector<float> values(160, 1);
  const auto write_adapter = [&](const std::string& name) {
    const NamedTensor tensors[] = {{"base_model.model.layers.0.attention.to_q.lora_A.weight",
                                    ConstView(reinterpret_cast<const std::byte*>(values.data()), DType::f32, {4, 40})},
                                   {"base_model.model.layers.0.attention.to_q.lora_B.weight",
                                    ConstView(reinterpret_cast<const std::byte*>(values.data()), DType::f32, {40, 4})}};
    write_safetensors(folder_ / name, tensors);
    return read_adapter(SafetensorsFile(folder_ / name), zimage_targets(tiny_zimage())).updates.at(0).scale;
  };
  EXPECT_EQ(write_adapter("adapter_model.safetensors"), 1);
  write("adapter_config.json", R"({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "target_modules": ["to_q"]})");
  EXPECT_EQ(write_adapter("adapter_model.safetensors"), 3);
  EXPECT_EQ(write_adapter("other.safetensors"), 1);
}

}  // namespace
}  // namespace nostos::test
