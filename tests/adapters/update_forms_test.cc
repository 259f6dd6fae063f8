// Tests in which form changes come: what is cut, what is shared, and where another form takes fewer numbers.
#include <gtest/gtest.h>

#include "adapters/adapter.h"
#include "adapters/adapter_models.h"
#include "adapters/memory_file.h"
#include "adapters/merge.h"

namespace nostos::test {
namespace {

/// Adds a LoRA of rank 2.
void add_lora(MemoryFile& file, const std::string& module, int64_t out, int64_t in) {
  file.add(module + ".lora_A.weight", {2, in});
  file.add(module + ".lora_B.weight", {out, 2}, -1);
}

TEST(UpdateForms, FusedProjectionsShareTheirDown) {
  MemoryFile file;
  add_lora(file, "layers.0.attention.qkv", 120, 40);
  const Adapter adapter = read_adapter(file, zimage_targets(tiny_zimage()));
  ASSERT_EQ(adapter.updates.size(), 3u);
  for (const WeightUpdate& update : adapter.updates) {
    EXPECT_EQ(update.rows, 40);
    EXPECT_EQ(update.part, "transformer");
    EXPECT_EQ(std::get<LowRank>(update.delta).down, std::get<LowRank>(adapter.updates[0].delta).down);
    EXPECT_EQ(std::get<LowRank>(update.delta).up->rows, 40);
  }
  EXPECT_EQ(adapter.updates[0].target, "layers.0.attention.to_k.weight") << "sorted";
}

// One update although the file has the halves the other way round, but two of a Kronecker product.
TEST(UpdateForms, SwappedHalves) {
  MemoryFile file;
  add_lora(file, "final_layer.adaLN_modulation.1", 96, 48);
  const AdapterTargets targets = flux2_targets(tiny_flux2());
  const Adapter adapter = read_adapter(file, targets);
  ASSERT_EQ(adapter.updates.size(), 1u);
  EXPECT_EQ(adapter.updates[0].rows, 96);
  const Matrix& up = *std::get<LowRank>(adapter.updates[0].delta).up;
  EXPECT_EQ(up.row(48)[0], -1.0f) << "the file's first row";

  MemoryFile kronecker;
  kronecker.add("final_layer.adaLN_modulation.1.lokr_w1", {3, 6});
  kronecker.add("final_layer.adaLN_modulation.1.lokr_w2", {32, 8});
  const Adapter two = read_adapter(kronecker, targets);
  ASSERT_EQ(two.updates.size(), 2u);
  EXPECT_EQ(two.updates[0].first_row, 0);
  EXPECT_EQ(two.updates[1].first_row, 48);
  EXPECT_EQ(std::get<Kronecker>(two.updates[0].delta).first_row, 16) << "rows 48 to 95 of blocks of 32";
  EXPECT_EQ(std::get<Kronecker>(two.updates[0].delta).left->rows, 2);
  EXPECT_EQ(std::get<Kronecker>(two.updates[1].delta).first_row, 0);
}

TEST(UpdateForms, KroneckerBlocksThatEndWhereProjectionsEnd) {
  MemoryFile file;
  file.add("layers.0.attention.qkv.lokr_w1", {6, 5});
  file.add("layers.0.attention.qkv.lokr_w2", {20, 8});
  for (const WeightUpdate& update : read_adapter(file, zimage_targets(tiny_zimage())).updates) {
    EXPECT_EQ(std::get<Kronecker>(update.delta).first_row, 0);
    EXPECT_EQ(std::get<Kronecker>(update.delta).left->rows, 2);
  }
}

TEST(UpdateForms, TheFormWithTheFewestNumbers) {
  const AdapterTargets targets = zimage_targets(tiny_zimage());
  const auto form = [&](const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors) {
    MemoryFile file;
    for (const auto& [name, extents] : tensors) file.add("layers.0.feed_forward.w1." + name, extents);
    return read_adapter(file, targets).updates.at(0).delta.index();
  };
  constexpr size_t kLowRank = 0, kKronecker = 1, kDense = 2;
  EXPECT_EQ(form({{"lokr_w1", {2, 4}}, {"lokr_w2", {53, 10}}}), kKronecker);
  EXPECT_EQ(form({{"lokr_w1", {1, 2}}, {"lokr_w2_a", {106, 2}}, {"lokr_w2_b", {2, 20}}}), kLowRank);
  EXPECT_EQ(form({{"lokr_w1", {2, 4}}, {"lokr_w2_a", {53, 1}}, {"lokr_w2_b", {1, 10}}}), kLowRank);
  EXPECT_EQ(form({{"lokr_w1", {2, 4}}, {"lokr_w2_a", {53, 2}}, {"lokr_w2_b", {2, 10}}}), kKronecker);
  const auto loha = [&](int64_t r) {
    return form({{"hada_w1_a", {106, r}}, {"hada_w1_b", {r, 40}}, {"hada_w2_a", {106, r}}, {"hada_w2_b", {r, 40}}});
  };
  EXPECT_EQ(loha(5), kLowRank) << "25 x 146 numbers";
  EXPECT_EQ(loha(6), kDense) << "36 x 146 numbers, against 106 x 40";
}

TEST(UpdateForms, BiasOfTheUpMatrixIsScaled) {
  MemoryFile file;
  const std::string module = "layers.0.adaLN_modulation.0";
  add_lora(file, module, 160, 40);
  file.add(module + ".lora_B.bias", {160});
  file.add(module + ".alpha", {}, std::vector<float>{1});
  const Adapter adapter = read_adapter(file, zimage_targets(tiny_zimage()));
  ASSERT_EQ(adapter.updates.size(), 2u);
  EXPECT_EQ(adapter.updates[0].target, module + ".bias");
  EXPECT_EQ(adapter.updates[0].columns, 1);
  EXPECT_EQ(adapter.updates[0].rows, 160);
  EXPECT_EQ(adapter.updates[0].scale, 0.5);
}

TEST(UpdateForms, MagnitudesByTheirShape) {
  const AdapterTargets targets = zimage_targets(tiny_zimage());
  const auto axis = [&](const std::string& module, int64_t out, int64_t in, std::vector<int64_t> extents) {
    MemoryFile file;
    add_lora(file, module, out, in);
    file.add(module + ".dora_scale", std::move(extents));
    return read_adapter(file, targets).updates.at(0).magnitude.value().axis;
  };
  using Axis = Magnitude::Axis;
  EXPECT_EQ(axis("layers.0.attention.to_q", 40, 40, {40, 1}), Axis::each_row);
  EXPECT_EQ(axis("layers.0.attention.to_q", 40, 40, {40}), Axis::each_row);
  EXPECT_EQ(axis("layers.0.attention.to_q", 40, 40, {1, 40}), Axis::each_column);
  EXPECT_EQ(axis("layers.0.feed_forward.w1", 106, 40, {1, 106}), Axis::each_row);
  EXPECT_EQ(axis("layers.0.feed_forward.w1", 106, 40, {1, 40}), Axis::each_column);
  EXPECT_EQ(axis("layers.0.feed_forward.w1", 106, 40, {40}), Axis::each_column);
}

// An adapter of the text encoder alone, and one of both, where the targets have both.
TEST(UpdateForms, TextEncoder) {
  MemoryFile file;
  add_lora(file, "transformer.layers.0.attention.to_q", 40, 40);
  const AdapterTargets targets = zimage_targets(tiny_zimage(), true);
  const std::string module = "layers.0.self_attn.o_proj";
  const Shape& shape = targets.part(1).shapes.at(module + ".weight");
  add_lora(file, "text_encoder.model." + module, shape[0], shape[1]);
  const Adapter adapter = read_adapter(file, targets);
  ASSERT_EQ(adapter.updates.size(), 2u);
  EXPECT_EQ(adapter.updates[0].part, kTextEncoderPart);
  EXPECT_EQ(adapter.updates[0].target, module + ".weight");
  EXPECT_EQ(adapter.updates[1].part, "transformer");
  EXPECT_TRUE(adapter.report.text_encoder.empty());
}

// Of a fused module beside one of its projections, the other projections still count.
TEST(UpdateForms, DuplicatesByTheRow) {
  MemoryFile file;
  add_lora(file, "layers.0.attention.to_q", 40, 40);
  add_lora(file, "layers.0.attention.qkv", 120, 40);
  const Adapter adapter = read_adapter(file, zimage_targets(tiny_zimage()));
  EXPECT_EQ(adapter.updates.size(), 3u);
  EXPECT_EQ(adapter.report.duplicates, (std::vector<std::string>{"layers_0_attention_qkv (in part)"}));
  EXPECT_EQ(adapter.report.modules, 2);
}

}  // namespace
}  // namespace nostos::test
