// Tests which files of a repository are fetched.
#include "hub/wanted_files.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace nostos {
namespace {

using Paths = std::set<std::string>;

constexpr const char* kIndex =
    R"({"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})";

WantedFiles choose(const Paths& paths, const FileWish& wish = {}, const std::string& index = kIndex) {
  std::vector<HubFile> files;
  for (const std::string& path : paths) files.push_back({path, 1, std::string(40, 'a'), false});
  return wanted_files("a/b", files, wish, [&](const HubFile&) { return index; });
}

Paths chosen(const Paths& paths, const FileWish& wish = {}) {
  Paths chosen;
  for (const HubFile& file : choose(paths, wish).files) chosen.insert(file.path);
  return chosen;
}

const Paths kPipeline{"model_index.json",
                      "scheduler/scheduler_config.json",
                      "tokenizer/tokenizer.json",
                      "text_encoder/config.json",
                      "text_encoder/model.safetensors.index.json",
                      "text_encoder/model-00001-of-00002.safetensors",
                      "text_encoder/model-00002-of-00002.safetensors",
                      "transformer/config.json",
                      "transformer/diffusion_pytorch_model.safetensors",
                      "vae/config.json",
                      "vae/diffusion_pytorch_model.safetensors"};

TEST(WantedFiles, OfAPipelineWhatDrawingsRead) {
  Paths all = kPipeline;
  all.insert({"README.md", "all-in-one.safetensors", "assets/a.png", "text_encoder/model.bin",
              "text_encoder/tokenizer.json", "safety_checker/model.safetensors",
              "vae/diffusion_pytorch_model.fp16.safetensors", "vae/sub/config.json"});
  EXPECT_EQ(chosen(all), kPipeline);
  EXPECT_TRUE(choose(all).is_folder);
}

TEST(WantedFiles, OneSetOfWeightsAsTheLibrariesTakeIt) {
  // transformers prefers the single file, diffusers the index.
  Paths all = kPipeline;
  all.insert("text_encoder/model.safetensors");
  EXPECT_TRUE(chosen(all).contains("text_encoder/model.safetensors"));
  EXPECT_FALSE(chosen(all).contains("text_encoder/model.safetensors.index.json"));
  all.erase("text_encoder/model.safetensors");
  all.erase("text_encoder/model-00002-of-00002.safetensors");
  EXPECT_THROW(choose(all), Error);
}

TEST(WantedFiles, AnIndexOfMissingShardsGoesLast) {
  const Paths all{"config.json", "diffusion_pytorch_model.safetensors.index.json",
                  "diffusion_pytorch_model.safetensors"};
  EXPECT_EQ(chosen(all), (Paths{"config.json", "diffusion_pytorch_model.safetensors"}));
}

TEST(WantedFiles, Variants) {
  Paths all = kPipeline;
  all.insert("vae/diffusion_pytorch_model.fp16.safetensors");
  const Paths half = chosen(all, {{}, "fp16"});
  EXPECT_TRUE(half.contains("vae/diffusion_pytorch_model.fp16.safetensors"));
  EXPECT_FALSE(half.contains("vae/diffusion_pytorch_model.safetensors"));
  EXPECT_TRUE(half.contains("transformer/diffusion_pytorch_model.safetensors"));
  EXPECT_THROW(choose(all, {{}, "bf16"}), Error);
}

TEST(WantedFiles, PatternsAreOfPathsAndNames) {
  const Paths all{"a/x-Q4.gguf", "b/y.safetensors", "x-Q8.gguf"};
  EXPECT_EQ(chosen(all, {{"*Q4*"}}), Paths{"a/x-Q4.gguf"});
  EXPECT_EQ(chosen(all, {{"y.safetensors", "x-Q8.gguf"}}), (Paths{"b/y.safetensors", "x-Q8.gguf"}));
  EXPECT_EQ(chosen(all, {{"*"}}), all);
  EXPECT_FALSE(choose(all, {{"*"}}).is_folder);
  EXPECT_THROW(choose(all, {{"*Q4*", "*Q5*"}}), Error);
}

}  // namespace
}  // namespace nostos
