// Tests `quantise()`: the file that it writes draws what rounding at load draws, of both families.
#include "quantisation/quantise.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoints/part_types.h"
#include "families/registry.h"
#include "families/zimage/model.h"
#include "io/safetensors.h"
#include "io/weight_store.h"
#include "models/synthetic_source.h"
#include "ops/capabilities.h"
#include "pipeline/precisions.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// \return a copy of klein's tiny folder whose transformer is wide enough to be rounded.
Path wide_klein(const Path& folder) {
  const Path made = folder / "klein";
  std::filesystem::copy(repository() / "tests/data/klein_tiny/base", made, std::filesystem::copy_options::recursive);
  std::filesystem::remove_all(made / "transformer");
  std::filesystem::create_directories(made / "transformer");
  nlohmann::json config =
      nlohmann::json::parse(std::ifstream(repository() / "tests/data/klein_tiny/base/transformer/config.json"));
  config.update({{"num_attention_heads", 2},
                 {"attention_head_dim", 32},
                 {"axes_dims_rope", {8, 8, 8, 8}},
                 {"mlp_ratio", 3},
                 {"num_layers", 1},
                 {"num_single_layers", 2}});
  std::ofstream(made / "transformer/config.json") << config;
  const FamilyOptions family{.files = made, .synthetic = true};
  const PartTensors listed =
      list_tensors(part_type(transformer_kind(family)), JsonConfig::parse(config.dump(), "config"));
  Context ctx({}, 1);
  SyntheticSource source(ctx);
  std::vector<NamedTensor> tensors;
  for (const auto& [name, shape] : listed.shapes) tensors.push_back({name, source.tensor(name, shape)});
  write_safetensors(made / "transformer/diffusion_pytorch_model.safetensors", tensors);
  return made;
}

struct Case {
  const char* name;
  Path (*model)(const Path& folder);
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class Quantise : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!ops::capabilities({}).int8_products) GTEST_SKIP() << "no products of 8-bit numbers here";
    // Tests run beside each other.
    folder_ = Path(testing::TempDir()) / ("quantise." + std::to_string(getpid())) / GetParam().name;
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    options_.engine.model = GetParam().model(folder_);
    options_.engine.threads = 2;
    options_.requests = {request("a lion on a beach"), request("three apples")};
    options_.output = folder_ / "made.safetensors";
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_.parent_path());
  }
  static GenerationRequest request(const char* prompt) {
    GenerationRequest made;
    made.prompt = prompt;
    made.height = made.width = 64;
    made.num_inference_steps = 2;
    made.max_sequence_length = 48;
    return made;
  }
  /// \return the latents of the model with layers rounded but `kept`.
  std::vector<uint8_t> drawn(const std::optional<std::set<std::string>>& kept) {
    EngineOptions engine = options_.engine;
    engine.kept_products = kept;
    return drawn(engine);
  }
  /// \return the latents that the file gives.
  std::vector<uint8_t> drawn_from_file(const Parallelism& parallelism = {}) {
    EngineOptions engine = options_.engine;
    engine.parallelism = parallelism;
    engine.model.transformer = options_.output;
    return drawn(engine);
  }
  std::vector<uint8_t> drawn(EngineOptions engine) {
    engine.precision = Precision::int8;
    const Generation made = Engine(engine).generate(options_.requests[0]);
    const Tensor& latents = made.pictures.at(0).latents;
    const auto* begin = reinterpret_cast<const uint8_t*>(latents.view().bytes());
    return {begin, begin + latents.size_in_bytes()};
  }

  Path folder_;
  QuantisationOptions options_;
};

INSTANTIATE_TEST_SUITE_P(Families, Quantise,
                         testing::Values(Case{"z_image", [](const Path&) { return repository() / "models/mini"; }},
                                         Case{"klein", wide_klein}),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

TEST_P(Quantise, AFileOfAllLayersDrawsWhatRoundingAtLoadDraws) {
  options_.max_layer_error = 1;
  const QuantisationReport report = quantise(options_);
  ASSERT_FALSE(report.layers.empty());
  for (const LayerError& layer : report.layers) {
    const std::string& name = layer.matrices.front();
    // Klein has no layers that are always kept, and no such names.
    EXPECT_EQ(layer.is_kept, std::ranges::count(zimage::kKeptProducts, name) > 0) << name;
    EXPECT_GT(layer.mean, 0.001) << layer.matrices.front();
    EXPECT_LT(layer.worst, 0.1) << layer.matrices.front();
    EXPECT_GE(layer.worst, layer.mean * (1 - 1e-12));
  }
  ASSERT_EQ(report.steps.size(), 2u);
  EXPECT_GT(report.least_cosine(), 0.99);
  EXPECT_LT(report.least_cosine(), 1);
  ASSERT_EQ(report.images.size(), 2u);
  EXPECT_EQ(report.images[1].prompt, "three apples");
  EXPECT_EQ(drawn_from_file(), drawn(std::nullopt));
  const bool keeps_some = std::string_view(GetParam().name) == "z_image";
  EXPECT_EQ(drawn(std::nullopt) != drawn(std::set<std::string>()), keeps_some);
}

TEST_P(Quantise, LayersBeyondTheBoundStayBf16InTheFileAndInDrawings) {
  options_.max_layer_error = 1;
  options_.output.clear();
  std::vector<double> errors;
  for (const LayerError& layer : quantise(options_).layers) errors.push_back(layer.worst);
  std::ranges::sort(errors);
  options_.max_layer_error = errors[errors.size() / 2];
  options_.output = folder_ / "made.safetensors";
  const QuantisationReport report = quantise(options_);
  std::set<std::string> kept;
  for (const LayerError& layer : report.layers)
    if (layer.is_kept) kept.insert(layer.matrices.begin(), layer.matrices.end());
  ASSERT_FALSE(kept.empty());
  ASSERT_LT(kept.size(), errors.size() * 3);
  const std::vector<uint8_t> of_file = drawn_from_file();
  EXPECT_EQ(of_file, drawn(kept));
  EXPECT_NE(of_file, drawn(std::set<std::string>()));
  EXPECT_EQ(of_file, drawn_from_file({.ulysses = 2}));
  EXPECT_EQ(of_file, drawn_from_file({.ulysses = 2, .plan = parallel::PlanKind::axis}));

  const SafetensorsFile file(options_.output);
  int64_t rounded = 0, plain = 0;
  for (const auto& [name, info] : file.tensors()) {
    if (info.dtype_name == "I8") ++rounded;
    if (info.dtype_name == "BF16" && info.extents.size() == 2) ++plain;
  }
  EXPECT_GT(rounded, 0);
  EXPECT_GT(plain, 0);
  const nlohmann::json text = nlohmann::json::parse(file.metadata().at(kReportText));
  EXPECT_EQ(text["layers"].size(), report.layers.size());
  EXPECT_EQ(text["steps"].size(), 2u);
  EXPECT_EQ(text["images"][0]["prompt"], "a lion on a beach");
}

TEST_P(Quantise, RefusesWhatCannotBeMeasured) {
  QuantisationOptions none = options_, ranks = options_, rounded = options_, random = options_;
  none.requests.clear();
  ranks.engine.parallelism.ulysses = 2;
  rounded.engine.precision = Precision::int8;
  random.engine.synthetic = true;
  for (const QuantisationOptions& wrong : {none, ranks, rounded, random}) EXPECT_THROW(quantise(wrong), Error);
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

TEST_P(Quantise, LeavesNothingBehindWhenItIsInterrupted) {
  std::atomic<bool> cancel = false;
  QuantisationProgress progress;
  progress.cancel = &cancel;
  progress.on_work = [&](const char* stage, int64_t, int64_t) { cancel = std::string_view(stage) == "write"; };
  options_.max_layer_error = 1;
  EXPECT_THROW(quantise(options_, progress), Error);
  EXPECT_FALSE(std::filesystem::exists(options_.output));
}

}  // namespace
}  // namespace nostos
