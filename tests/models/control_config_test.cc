// Tests what is known of a control network from its file: which variant it is, its tensors, and whether it fits.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "models/synthetic_source.h"
#include "models/zimage/control_weights.h"
#include "models/zimage/file_layouts.h"
#include "models/zimage_control.h"

namespace nostos::test {
namespace {

namespace z = zimage;
using z::ControlRefiner;
using Shapes = std::map<std::string, Shape>;

const std::filesystem::path kRoot(NOSTOS_SOURCE_DIR);

/// \return the tensors of a published file, as VideoX-Fun's class has them.
Shapes published(const std::string& variant) {
  std::ifstream file(kRoot / "tests/data/zimage_control/names.json");
  const nlohmann::json json = nlohmann::json::parse(file);
  Shapes shapes;
  for (const auto& [name, extents] : json.at(variant).items())
    for (const int64_t extent : extents) shapes[name].push_back(extent);
  return shapes;
}

/// \return the tensors without those whose names begin so.
Shapes without(Shapes shapes, std::string_view prefix) {
  std::erase_if(shapes, [&](const auto& tensor) { return tensor.first.starts_with(prefix); });
  return shapes;
}

z::ControlConfig guess(const Shapes& shapes, bool is_trained = true) {
  const auto find = [&](const std::string& name) {
    const auto found = shapes.find(name);
    return found == shapes.end() ? std::nullopt : std::optional(found->second);
  };
  return z::load_control_config(
      z::guess_control_config({"control.safetensors", find}, [&](const std::string&) { return !is_trained; }));
}

/// \return what a walk asks for, in words, since shapes do not print.
std::map<std::string, std::string> walked(const z::ControlConfig& config) {
  Context ctx({}, 1);
  const auto source = std::make_shared<ListingSource>();
  WeightBuilder builder(ctx, source, DType::bf16);
  z::build_control_weights(config, builder);
  std::map<std::string, std::string> names;
  for (const auto& [name, shape] : source->shapes()) names[name] = to_string(shape);
  return names;
}

std::map<std::string, std::string> in_words(const Shapes& shapes) {
  std::map<std::string, std::string> names;
  for (const auto& [name, shape] : shapes) names[name] = to_string(shape);
  return names;
}

std::string failure(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    return error.what();
  }
  ADD_FAILURE() << "not refused";
  return "";
}

z::ControlConfig expected(std::vector<int64_t> places, int64_t channels, ControlRefiner refiner) {
  z::ControlConfig config{.dims = {}, .places = std::move(places), .refiner = refiner};
  config.dims.in_channels = channels;
  config.dims.layers = std::ssize(config.places);
  return config;
}

const std::vector<int64_t> kEveryFifth{0, 5, 10, 15, 20, 25}, kEveryTenth{0, 10, 20},
    kEverySecond{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28};

TEST(ControlConfig, TensorsTellTheVariant) {
  const Shapes large = published("union_2.1");
  EXPECT_EQ(guess(published("union_1.0")), expected(kEveryFifth, 16, ControlRefiner::plain_blocks));
  EXPECT_EQ(guess(large), expected(kEverySecond, 33, ControlRefiner::control_blocks));
  EXPECT_EQ(guess(published("lite")), expected(kEveryTenth, 33, ControlRefiner::control_blocks));
  // Union 2.0 has blocks that were never trained; diffusers leaves them out.
  EXPECT_EQ(guess(large, false), expected(kEverySecond, 33, ControlRefiner::control_layers));
  EXPECT_EQ(guess(without(large, "control_noise_refiner.")),
            expected(kEverySecond, 33, ControlRefiner::control_layers));
}

// The tiny networks' layers are taken for as many of a transformer with 30.
TEST(ControlConfig, AFileTellsTheVariant) {
  const ControlGolden golden;
  for (const auto& [variant, refiner] : {std::pair{"union_1.0", ControlRefiner::plain_blocks},
                                         {"union_2.0", ControlRefiner::control_layers},
                                         {"union_2.1", ControlRefiner::control_blocks},
                                         {"lite", ControlRefiner::control_blocks}}) {
    const std::filesystem::path file = write_control_file(golden, variant);
    const WeightStore store = WeightStore::open_file(file);
    const TensorShapes shapes(file.string(), [&](const std::string& name) {
      const TensorInfo* info = store.info(name);
      return info == nullptr ? std::optional<Shape>() : info->shape();
    });
    const z::ControlConfig config = z::load_control_config(z::guess_control_config(shapes, store));
    EXPECT_EQ(config.refiner, refiner) << variant;
    EXPECT_EQ(config.dims.layers, std::ssize(golden.json["variants"][variant]["control_layers_places"])) << variant;
    EXPECT_EQ(config.dims.in_channels, golden.json["variants"][variant]["control_in_dim"]) << variant;
    EXPECT_EQ(config.dims.heads, 5) << variant;
    std::filesystem::remove(file);
  }
}

TEST(ControlConfig, TensorsThatTellNothingAreRefused) {
  Shapes shapes = without(published("lite"), "control_layers.2.");
  shapes = without(shapes, "control_layers.1.");
  EXPECT_EQ(guess(shapes).places, std::vector<int64_t>{0});
  shapes = without(published("union_1.0"), "control_layers.4.");  // and so the fifth, too, since they are counted
  EXPECT_NE(failure([&] { guess(shapes); }).find("4 control layers"), std::string::npos);
  EXPECT_NE(failure([&] { guess({}); }).find("control_all_x_embedder.2-1.weight"), std::string::npos);
}

TEST(ControlConfig, TheWalkNamesThePublishedTensors) {
  for (const char* variant : {"union_1.0", "union_2.1", "lite"}) {
    const Shapes shapes = published(variant);
    EXPECT_EQ(walked(guess(shapes)), in_words(shapes)) << variant;
  }
  // A few names as they stand in the published files, so that nobody's class is taken for granted.
  const auto names = walked(guess(published("union_2.1")));
  for (const char* name :
       {"control_all_x_embedder.2-1.bias", "control_layers.0.before_proj.weight", "control_layers.14.after_proj.bias",
        "control_layers.14.adaLN_modulation.0.weight", "control_noise_refiner.0.before_proj.weight",
        "control_noise_refiner.1.after_proj.weight", "control_layers.7.attention.to_out.0.weight",
        "control_layers.7.attention.norm_q.weight", "control_layers.7.feed_forward.w3.weight"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("control_layers.1.before_proj.weight"));
  EXPECT_EQ(walked(guess(published("union_2.1"), false)),
            in_words(without(published("union_2.1"), "control_noise_refiner.")));
}

// What visits a GPU that has no room for all of it.
TEST(ControlConfig, ProjectionsAreOfTheirBlocks) {
  Context ctx({}, 1);
  WeightBuilder builder(ctx, std::make_shared<ListingSource>(), DType::bf16);
  const WeightSizes sizes = z::build_control_weights(guess(published("union_2.1")), builder).storage.sizes;
  const z::Config block;
  const size_t projection = static_cast<size_t>(2 * block.hidden * block.hidden),
               matrices = 4 * projection + static_cast<size_t>(2 * 3 * block.hidden * block.ffn());
  ASSERT_EQ(sizes.blocks.size(), 17u);
  for (size_t i = 0; i < sizes.blocks.size(); ++i) {
    const bool begins_a_list = i == 0 || i == 2;
    EXPECT_EQ(sizes.blocks[i], matrices + (begins_a_list ? 2 : 1) * projection) << i;
    EXPECT_EQ(sizes.uses[i], BlockUse::each_step);
  }
}

TEST(ControlConfig, FilesOfComfyUIHaveEveryTensor) {
  const auto layouts = z::control_file_layouts();
  const Shapes shapes = published("union_2.1");
  for (const CheckpointLayout& layout : layouts) {
    std::map<std::string, int64_t> parts;  // found of each tensor of the file
    for (const auto& [name, shape] : shapes)
      for (const TensorRows& rows : layout.find(name)) parts[rows.name] += rows.parts == 1 ? 3 : 1;
    EXPECT_TRUE(std::ranges::all_of(parts, [](const auto& part) { return part.second == 3; })) << layout.title;
    EXPECT_EQ(parts.size(), layout.title == "diffusers" ? shapes.size() : shapes.size() - 2 * 17) << layout.title;
    const auto has = [&](const std::string& name) { return parts.contains(name); };
    const auto found = find_layout(has, layouts, z::file_prefixes());
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->layout, &layout);
    EXPECT_FALSE(find_layout(has, z::file_layouts(), z::file_prefixes())) << "taken for a transformer";
  }
}

TEST(ControlConfig, AFileIsLoadedWhole) {
  const ControlGolden golden;
  for (const std::string& variant : golden.variants()) {
    Context ctx({}, 1);
    const ControlledModel model = ControlledModel::load(ctx, golden, variant, DType::f32);
    EXPECT_EQ(std::ssize(model.control.weights().layers), model.control.config().dims.layers);
    EXPECT_EQ(std::ssize(model.control.weights().refiner), variant == "union_2.0" ? 0 : 2);
    const WeightTable table = weight_table(model.control.weights());
    EXPECT_EQ(table.count("control_layers.0.before_proj.weight"), 1u);
    EXPECT_EQ(table.count("control_layers.0.feed_forward.w3.weight"), 1u);
  }
}

// The untrained blocks of Union 2.0 are neither missed where they are not, nor warned of where they are.
TEST(ControlConfig, BlocksThatDoNotRunAreNotMissed) {
  const ControlGolden golden;
  Context ctx({}, 1);
  const z::ControlConfig config = ControlledModel::load(ctx, golden, "union_2.0", DType::f32).control.config();
  const std::filesystem::path file = write_control_file(golden, "union_2.0");
  testing::internal::CaptureStderr();
  WeightBuilder builder(
      ctx, std::make_shared<StoreSource>(WeightStores().open(file), CheckpointNames{}, StoreSource::Mode::check_only),
      DType::f32);
  z::build_control_weights(config, builder);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  std::filesystem::remove(file);
}

TEST(ControlConfig, WhatDoesNotFitTheTransformerIsRefused) {
  const z::Config transformer;
  const z::ControlConfig fits = expected(kEverySecond, 33, ControlRefiner::control_blocks);
  EXPECT_NO_THROW(z::check_control(fits, transformer, "c.safetensors"));
  EXPECT_NO_THROW(z::check_control(expected(kEveryFifth, 16, ControlRefiner::plain_blocks), transformer, ""));
  const auto refused = [&](const std::function<void(z::ControlConfig&)>& change, const char* word) {
    z::ControlConfig config = fits;
    change(config);
    const std::string message = failure([&] { z::check_control(config, transformer, "c.safetensors"); });
    EXPECT_TRUE(message.starts_with("c.safetensors")) << message;
    EXPECT_NE(message.find(word), std::string::npos) << message;
  };
  refused([](z::ControlConfig& c) { c.dims.hidden = 3072; }, "width 3072, not 3840");
  refused([](z::ControlConfig& c) { c.dims.heads = 24; }, "heads 24, not 30");
  refused([](z::ControlConfig& c) { c.dims.patch = 1; }, "patch size 1, not 2");
  refused([](z::ControlConfig& c) { c.dims.refiner_layers = 1; }, "refiners 1, not 2");
  refused([](z::ControlConfig& c) { c.dims.in_channels = 17; }, "17 channels, neither 16 nor 33");
  refused([](z::ControlConfig& c) { c.places.push_back(30); }, "layer 30");
}

TEST(ControlConfig, WhatContradictsItselfIsRefused) {
  const auto refused = [](const char* fields, const char* word) {
    const std::string text = R"({"control_layers_places": [0, 2], "control_refiner_layers_places": [0, 1],
                                 "add_control_noise_refiner": "control_noise_refiner")";
    nlohmann::json json = nlohmann::json::parse(text + "}");
    json.update(nlohmann::json::parse(fields));
    const std::string message = failure([&] { z::load_control_config(JsonConfig::parse(json.dump(), "config.json")); });
    EXPECT_NE(message.find(word), std::string::npos) << message;
  };
  refused(R"({"control_layers_places": []})", "control_layers_places");
  refused(R"({"control_layers_places": [0, 2, 2]})", "control_layers_places");
  refused(R"({"control_layers_places": [3, 2]})", "control_layers_places");
  refused(R"({"control_refiner_layers_places": [0]})", "control_refiner_layers_places");
  refused(R"({"control_refiner_layers_places": [1, 2]})", "control_refiner_layers_places");
  refused(R"({"add_control_noise_refiner": "both"})", "add_control_noise_refiner");
  refused(R"({"add_control_noise_refiner": "control_layers", "control_layers_places": [0]})", "fewer than the 2");
  refused(R"({"n_refiner_layers": 0, "control_refiner_layers_places": []})", "n_refiner_layers");
  refused(R"({"_class_name": "FluxControlNetModel"})", "FluxControlNetModel");
  refused(R"({"all_patch_size": [1, 2]})", "all_patch_size");
}

}  // namespace
}  // namespace nostos::test
