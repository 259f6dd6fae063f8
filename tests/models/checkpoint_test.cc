// Tests from which folders a model is loaded: what of them is needed, which weights count, and what is refused by name.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "families/registry.h"
#include "io/safetensors.h"
#include "io/test_files.h"

namespace nostos::test {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kVae = "vae/diffusion_pytorch_model.safetensors";

/// A copy of a tiny model that a test may spoil.
class Checkpoint : public FolderTest {
 protected:
  Checkpoint() {
    fs::copy(fs::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test", folder_, fs::copy_options::recursive);
  }

  void open(const std::string& variant = "") {
    Context ctx({}, 1);
    open_family(ctx, {.files = folder_, .variant = variant});
  }
  void expect_refused(std::initializer_list<std::string_view> parts, const std::string& variant = "") {
    expect_error([&] { open(variant); }, ErrorKind::model, parts);
  }
  void change_json(const char* file, const std::function<void(json&)>& change) {
    json value = json::parse(slurp(folder_ / file));
    change(value);
    write(file, value.dump());
  }
  /// Changes what the header of a safetensors file says of its tensors.
  void change_header(const char* file, const std::function<void(json&)>& change) {
    const std::string bytes = slurp(folder_ / file);
    size_t length = 0;
    for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes[i]);
    json header = json::parse(bytes.substr(8, length));
    change(header);
    write(file, safetensors_bytes(header.dump(), bytes.substr(8 + length)));
  }
};

TEST_F(Checkpoint, PartsThatTheWorkDoesNotNeedMayBeBroken) {
  change_json("model_index.json", [](json& index) {
    index["feature_extractor"] = {nullptr, nullptr};
    index["tokenizer_2"] = {"transformers", "T5Tokenizer"};
    index["safety_checker"] = 7;
  });
  write("tokenizer_2/tokenizer.json", "{ damaged");
  write("feature_extractor/config.json", "{ damaged");
  write("text_encoder/generation_config.json", "{ damaged");
  write("vae/other.safetensors", "damaged");
  fs::create_symlink("gone", folder_ / "assets");
  write("scheduler/scheduler_config.json", "{}");
  for (const char* part : {"transformer", "vae"})
    change_json((std::string(part) + "/config.json").c_str(), [](json& config) { config.erase("_class_name"); });
  EXPECT_NO_THROW(open());
}

TEST_F(Checkpoint, ClassesOfTheIndexAreRead) {
  for (const char* pipeline : {"ZImageImg2ImgPipeline", "ZImageInpaintPipeline"}) {
    change_json("model_index.json", [&](json& index) { index["_class_name"] = pipeline; });
    EXPECT_NO_THROW(open()) << pipeline;
  }
  change_json("model_index.json", [](json& index) { index["scheduler"][1] = "FlowMatchHeunDiscreteScheduler"; });
  expect_refused(
      {"model_index.json", "'scheduler'", "FlowMatchHeunDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"});
  change_json("model_index.json", [](json& index) { index["_class_name"] = "FluxPipeline"; });
  expect_refused({"model_index.json", "_class_name", "FluxPipeline"});
}

TEST_F(Checkpoint, TensorsNestedByALanguageModelAreFoundWhateverItsConfigSays) {
  change_header("text_encoder/model.safetensors", [](json& header) {
    json nested;
    for (const auto& [name, entry] : header.items()) nested[name == "__metadata__" ? name : "model." + name] = entry;
    header = nested;
  });
  EXPECT_NO_THROW(open());
  change_json("text_encoder/config.json", [](json& config) { config.erase("architectures"); });
  EXPECT_NO_THROW(open());
}

TEST_F(Checkpoint, VariantsAreChosenPartByPart) {
  fs::copy(folder_ / kVae, folder_ / "vae/diffusion_pytorch_model.fp16.safetensors");
  EXPECT_NO_THROW(open());
  EXPECT_NO_THROW(open("fp16")) << "the other parts have plain weights alone";
  expect_refused({"no part of", "'fp8'"}, "fp8");
  fs::remove(folder_ / kVae);
  EXPECT_NO_THROW(open()) << "the only variant is taken";
  expect_refused({"no weights of the variant 'bf16'", "vae", "there are fp16"}, "bf16");
}

TEST_F(Checkpoint, ATensorThatCannotBeUsedIsNamedWhereItIsWanted) {
  std::string wanted;
  change_header(kVae, [&](json& header) {
    header["quantisation.scales"] = {{"dtype", "F8_E8M0"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
    for (const auto& [name, entry] : header.items())
      if (name.starts_with("decoder.conv_in.weight")) wanted = name;
  });
  EXPECT_NO_THROW(open()) << "the model has no use for it";
  change_header(kVae, [&](json& header) { header[wanted]["dtype"] = "F8_E8M0"; });
  expect_refused({wanted, kVae, "F8_E8M0", "weights that are F32, F16, BF16"});
}

TEST_F(Checkpoint, UnfinishedDownloadsAndPointersAreNamedInEveryFile) {
  for (const char* name :
       {"model_index.json", "transformer/config.json", "text_encoder/config.json", "vae/config.json",
        "scheduler/scheduler_config.json", "generation_config.json", kVae, "text_encoder/model.safetensors"}) {
    const bool was_there = fs::exists(folder_ / name);
    const std::string before = was_there ? slurp(folder_ / name) : "";
    write(name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n");
    expect_refused({name, "is a git-lfs pointer", "git lfs pull"});
    fs::remove(folder_ / name);
    fs::create_symlink("../../blobs/gone", folder_ / name);
    expect_refused({name, "is a link to '../../blobs/gone', which does not exist", "is the download incomplete?"});
    fs::remove(folder_ / name);
    if (was_there) write(name, before);
  }
  EXPECT_NO_THROW(open());
}

}  // namespace
}  // namespace nostos::test
