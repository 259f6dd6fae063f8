// Tests how names of adapter files are looked up, on the published models' full lists of weights.
#include "adapters/targets.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "adapters/adapter_models.h"

namespace nostos::test {
namespace {

std::string flattened(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

/// \return modules of the part that have a matrix or a vector named weight.
std::vector<std::string> modules_of(const AdapterPart& part) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<std::string> modules;
  for (const auto& [name, shape] : part.shapes)
    if (name.ends_with(kWeight)) modules.push_back(name.substr(0, name.size() - kWeight.size()));
  return modules;
}

class PublishedTargets : public testing::TestWithParam<const char*> {
 protected:
  AdapterTargets targets() const {
    const std::filesystem::path folder = published(GetParam());
    return std::string(GetParam()).starts_with("flux2") ? flux2_targets(folder) : zimage_targets(folder);
  }
};

INSTANTIATE_TEST_SUITE_P(Models, PublishedTargets, testing::Values("z-image-turbo", "flux2-klein-4b", "flux2-klein-9b"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// No two weights have names that differ in dots and underscores alone, and no prefix hides one.
TEST_P(PublishedTargets, EveryModuleIsFoundByEveryStyle) {
  const AdapterTargets targets = this->targets();
  const std::vector<std::string> modules = modules_of(targets.part(0));
  EXPECT_GT(modules.size(), 100u);
  for (const std::string& module : modules) {
    for (const std::string prefix :
         {"", "diffusion_model_", "transformer_", "model_diffusion_model_", "unet_", "base_model_model_",
          "base_model_model_transformer_", "lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_"}) {
      const ModuleMatch match = targets.find(prefix + flattened(module));
      ASSERT_EQ(match.weights.size(), 1u) << prefix << module;
      EXPECT_EQ(match.weights[0]->name, module + ".weight") << prefix;
      EXPECT_TRUE(match.weights[0]->is_diffusers);
      EXPECT_FALSE(match.is_missing_layer);
    }
  }
}

// Native names cover every row of every weight once.
TEST_P(PublishedTargets, EveryNativeNameIsFound) {
  const AdapterTargets targets = this->targets();
  for (const CheckpointLayout& layout : targets.part(0).layouts) {
    for (const auto& [name, shape] : targets.part(0).shapes) {
      for (const TensorRows& rows : layout.find(name)) {
        if (!rows.name.ends_with(".weight")) continue;
        const ModuleMatch match = targets.find("lora_unet_" + flattened(rows.name.substr(0, rows.name.size() - 7)));
        const bool is_found = std::any_of(match.weights.begin(), match.weights.end(), [&](const FileTensor* tensor) {
          return std::any_of(tensor->pieces.begin(), tensor->pieces.end(), [&](const TargetRows& piece) {
            return piece.target == name && piece.from == rows.part * piece.count;
          });
        });
        EXPECT_TRUE(is_found) << layout.title << " " << rows.name;
      }
    }
  }
}

TEST_P(PublishedTargets, WhatIsNotThere) {
  const AdapterTargets targets = this->targets();
  for (const std::string name :
       {"", "_", "lora_unet_", "lora_unet_lora_unet_lora_unet_lora_unet_lora_unet_", "siglip_embedder", "layers",
        "down_blocks_0_attentions_0_to_q", "joint_blocks_0_x_block_attn_qkv"}) {
    EXPECT_FALSE(targets.find(name).found()) << name;
    EXPECT_FALSE(targets.find(name).is_missing_layer) << name;
  }
}

TEST(Targets, FusedNamesGiveRowsInOrder) {
  const AdapterTargets targets = zimage_targets(published("z-image-turbo"));
  const ModuleMatch match = targets.find("lora_unet_layers_29_attention_qkv");
  const auto fused = std::find_if(match.weights.begin(), match.weights.end(),
                                  [](const FileTensor* tensor) { return tensor->rows == 3 * 3840; });
  ASSERT_NE(fused, match.weights.end());
  EXPECT_EQ((*fused)->columns, 3840);
  const std::string block = "layers.29.attention.";
  EXPECT_EQ((*fused)->pieces, (std::vector<TargetRows>{{block + "to_q.weight", 0, 3840, 0},
                                                       {block + "to_k.weight", 0, 3840, 3840},
                                                       {block + "to_v.weight", 0, 3840, 7680}}));
}

TEST(Targets, FinalModulationHasItsHalvesSwapped) {
  const AdapterTargets targets = flux2_targets(published("flux2-klein-4b"));
  const ModuleMatch match = targets.find("lora_unet_final_layer_adaLN_modulation_1");
  ASSERT_EQ(match.weights.size(), 1u);
  EXPECT_EQ(match.weights[0]->pieces, (std::vector<TargetRows>{{"norm_out.linear.weight", 3072, 3072, 0},
                                                               {"norm_out.linear.weight", 0, 3072, 3072}}));
}

TEST(Targets, MisspeltBlocks) {
  const AdapterTargets targets = flux2_targets(published("flux2-klein-4b"));
  const ModuleMatch match = targets.find("diffusion_model_sformer_blocks_4_attn_to_k");
  ASSERT_EQ(match.weights.size(), 1u);
  EXPECT_EQ(match.weights[0]->name, "transformer_blocks.4.attn.to_k.weight");
}

TEST(Targets, LayersThatTheModelLacks) {
  const AdapterTargets klein = flux2_targets(published("flux2-klein-4b"));
  for (const std::string name : {"transformer_transformer_blocks_5_attn_to_q", "lora_unet_single_blocks_20_linear1",
                                 "diffusion_model_double_blocks_7_img_attn_qkv"})
    EXPECT_TRUE(klein.find(name).is_missing_layer) << name;
  const AdapterTargets zimage = zimage_targets(published("z-image-turbo"));
  EXPECT_TRUE(zimage.find("layers_30_attention_to_q").is_missing_layer);
  EXPECT_FALSE(zimage.find("layers_29_attention_to_q").is_missing_layer);
}

TEST(Targets, TextEncodersKeys) {
  const AdapterTargets alone = zimage_targets(tiny_zimage()), both = zimage_targets(tiny_zimage(), true);
  EXPECT_FALSE(alone.has_text_encoder());
  ASSERT_TRUE(both.has_text_encoder());
  for (const std::string name :
       {"lora_te_layers_0_self_attn_q_proj", "lora_te1_model_layers_0_self_attn_q_proj",
        "text_encoder_model_layers_0_self_attn_q_proj",
        "text_encoders_qwen3_4b_transformer_model_layers_0_self_attn_q_proj", "text_encoder_blk_0_attn_q"}) {
    EXPECT_FALSE(alone.find(name).found()) << name;
    EXPECT_TRUE(alone.find(name).is_text_encoder) << name;
    const ModuleMatch match = both.find(name);
    ASSERT_EQ(match.weights.size(), 1u) << name;
    EXPECT_EQ(both.part(match.weights[0]->part).name, kTextEncoderPart);
    EXPECT_EQ(match.weights[0]->pieces[0].target, "layers.0.self_attn.q_proj.weight");
  }
  EXPECT_FALSE(both.find("lora_te_layers_0_attention_to_q").found()) << "the transformer's, behind a wrong prefix";
}

}  // namespace
}  // namespace nostos::test
