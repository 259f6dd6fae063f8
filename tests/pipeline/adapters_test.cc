// Tests drawings with adapters: the pictures of merged weights, the same bits on any number of ranks and in any batch,
// and weights that are as before once a drawing is done.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "adapters/merge.h"
#include "base/error.h"
#include "families/registry.h"
#include "io/safetensors.h"
#include "io/tensor_file.h"
#include "io/weight_store.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "pipeline/adapter_drawings.h"

namespace nostos {
namespace {

/// \return the largest difference, as a part of the largest number of `b`.
float apart(const std::vector<float>& a, const std::vector<float>& b) {
  float most = 0, largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    most = std::max(most, std::abs(a.at(i) - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return most / largest;
}

/// \return a copy of the model whose transformer has the weights that the adapter makes of it, float32.
Path merged(const Model& model, const AdapterUse& use) {
  // Of each test its own, which others run beside.
  const Path made = Path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name() /
                    fmt::format("merged_{}_{}", model.name, use.name);
  std::filesystem::remove_all(made);
  std::filesystem::create_directories(made.parent_path());
  std::filesystem::copy(model.folder, made, std::filesystem::copy_options::recursive);
  Context ctx;
  const std::unique_ptr<Family> family = open_family(ctx, {.files = model.folder});
  const std::shared_ptr<const Adapter> adapter = AdapterFiles(*family).read(use).adapter;
  WeightStore store = WeightStore::open(model.folder / "transformer");
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, info] : store.list()) {
    Tensor& tensor = tensors.emplace(name, Tensor(Device{}, DType::f32, *info.shape())).first->second;
    ops::convert(ctx, *store.find(name), tensor);
  }
  for (const WeightUpdate& update : adapter->updates) {
    if (update.part != "transformer") continue;
    Tensor& tensor = tensors.at(update.target);
    merge_update(update, use.scale, {tensor.data<float>(), static_cast<size_t>(tensor.shape().elements())});
  }
  for (const auto& entry : std::filesystem::directory_iterator(made / "transformer"))
    if (entry.path().filename() != "config.json") std::filesystem::remove(entry.path());
  std::vector<NamedTensor> named;
  for (const auto& [name, tensor] : tensors) named.push_back({name, tensor.view()});
  write_safetensors(made / "transformer/diffusion_pytorch_model.safetensors", named);
  return made;
}

struct Case {
  const Model* model;
  const char* adapter;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.model->name << " " << c.adapter; }

class AdapterDrawings : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Kinds, AdapterDrawings,
                         testing::Values(Case{&kZImage, "ai_toolkit"}, Case{&kZImage, "peft_default"},
                                         Case{&kZImage, "peft_rslora"}, Case{&kZImage, "kohya"},
                                         Case{&kZImage, "native"}, Case{&kZImage, "dots"}, Case{&kZImage, "lokr_whole"},
                                         Case{&kZImage, "lokr_fused"}, Case{&kZImage, "lokr_factors"},
                                         Case{&kZImage, "loha"}, Case{&kZImage, "dora"}, Case{&kZImage, "peft_dora"},
                                         Case{&kZImage, "differences"}, Case{&kZImage, "lycoris"}, Case{&kFlux2, "bfl"},
                                         Case{&kFlux2, "flux_kohya"}, Case{&kFlux2, "flux_diffusers"},
                                         Case{&kFlux2, "flux_lokr"}, Case{&kFlux2, "flux_differences"}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return fmt::format("{}_{}", info.param.model->name, info.param.adapter);
                         });

TEST_P(AdapterDrawings, AreThoseOfMergedWeights) {
  const auto& [model, name] = GetParam();
  Engine engine(options(model->folder));
  const std::vector<float> base = drawn(engine, {});
  for (const double scale : {1.0, -0.6}) {
    const AdapterUse use = use_of(*model, name, scale);
    const std::vector<float> with = drawn(engine, {use});
    Engine other(options(merged(*model, use)));
    EXPECT_LE(apart(with, drawn(other, {})), 1e-4f) << scale;
    EXPECT_GT(apart(with, base), 1e-3f) << "it has an effect";
  }
  EXPECT_EQ(drawn(engine, {use_of(*model, name, 0)}), base) << "a scale of 0 has none";
  EXPECT_EQ(drawn(engine, {}), base) << "the weights are as they were";
}

TEST_P(AdapterDrawings, RanksDrawTheSameBits) {
  const auto& [model, name] = GetParam();
  for (const Precision precision : drawing_precisions()) {
    Engine alone(options(model->folder, precision));
    const std::vector<AdapterUse> uses{use_of(*model, name, 0.7)};
    const std::vector<float> one = drawn(alone, uses);
    for (const Parallelism& parallelism :
         {Parallelism{.ulysses = 2}, Parallelism{.ulysses = 3, .plan = parallel::PlanKind::axis},
          Parallelism{.ulysses = 2, .cfg = 2}}) {
      Engine engine(options(model->folder, precision, parallelism));
      EXPECT_EQ(drawn(engine, uses), one) << parallelism.ulysses << " ranks, " << parallelism.cfg << " halves";
    }
  }
}

TEST(Adapters, SeveralAtOnceAreMergedOneAfterTheOther) {
  // A low rank, Kronecker products and lengths of rows, on the same weights in part.
  const std::vector<AdapterUse> uses{use_of(kZImage, "ai_toolkit", 0.5), use_of(kZImage, "lokr_whole"),
                                     use_of(kZImage, "dora", 0.8)};
  Engine engine(options(kZImage.folder));
  Model model = kZImage;
  for (const AdapterUse& use : uses) model.folder = merged(model, use);
  Engine other(options(model.folder));
  EXPECT_LE(apart(drawn(engine, uses), drawn(other, {})), 1e-4f);
}

TEST(Adapters, RequestsHaveTheBitsThatTheyHaveAlone) {
  EngineOptions with_cache = options(kZImage.folder);
  with_cache.kept_caption_bytes = size_t{1} << 20;
  Engine engine(with_cache);
  const AdapterUse one = use_of(kZImage, "ai_toolkit"), other = use_of(kZImage, "dora");
  const std::vector<float> base = drawn(engine, {}), with_one = drawn(engine, {one}),
                           with_other = drawn(engine, {other});
  EXPECT_NE(with_one, with_other);
  // In another order, with prompts that are kept of other adapters.
  EXPECT_EQ(drawn(engine, {other}), with_other);
  EXPECT_EQ(drawn(engine, {}), base);
  EXPECT_EQ(drawn(engine, {one}), with_one);

  const std::vector<GenerationRequest> same{request({one}), request({one}, 7)};
  const std::vector<Generation> together = engine.generate(same);
  EXPECT_EQ(latents_of(together[0]), with_one);
  EXPECT_EQ(latents_of(together[1]), latents_of(engine.generate(request({one}, 7))));

  EXPECT_FALSE(engine.takes_together(request({one}), request({other})));
  EXPECT_FALSE(engine.takes_together(request({one}), request({})));
  EXPECT_TRUE(engine.takes_together(request({one}), request({one}, 7)));
  AdapterUse without = other;
  without.scale = 0;
  EXPECT_TRUE(engine.takes_together(request({without}), request({}))) << "a scale of 0 has no effect";
}

TEST(Adapters, PartsThatTakeTurnsAreAdaptedWheneverTheyAreLoaded) {
  EngineOptions turns = options(kZImage.folder);
  turns.memory.mode = MemoryMode::offload;
  Engine engine(options(kZImage.folder)), in_turns(turns);
  const std::vector<AdapterUse> uses{use_of(kZImage, "differences")};
  EXPECT_EQ(drawn(in_turns, uses), drawn(engine, uses));
  EXPECT_EQ(drawn(in_turns, {}), drawn(engine, {}));
}

/// \return an adapter of the table of token embeddings, whose rows are looked up where the file is mapped.
AdapterUse table_change() {
  const std::string table = "embed_tokens.weight";
  const WeightStore store = WeightStore::open(kZImage.folder / "text_encoder");
  for (const auto& [name, info] : store.list()) {
    if (!name.ends_with(table)) continue;
    Tensor difference(Device{}, DType::f32, *info.shape());
    std::memset(difference.view().bytes(), 0, difference.size_in_bytes());
    // Tests run beside each other.
    const Path file = Path(testing::TempDir()) / fmt::format("table_change.{}.safetensors", getpid());
    const std::vector<NamedTensor> named{{"text_encoder.model.embed_tokens.diff", difference.view()}};
    write_safetensors(file, named);
    return {.name = "table", .file = file.string(), .sha256 = {}, .scale = 1};
  }
  throw std::runtime_error("no " + table);
}

void expect_refusals(Engine& engine) {
  const std::vector<float> base = drawn(engine, {});
  const auto refusal = [&](const AdapterUse& use) -> std::string {
    try {
      drawn(engine, {use_of(kZImage, "ai_toolkit"), use});
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const std::string of_another = refusal(use_of(kFlux2, "bfl"));
  EXPECT_NE(of_another.find("bfl.safetensors"), std::string::npos) << of_another;
  AdapterUse changed = use_of(kZImage, "dora");
  changed.sha256 = std::string(64, '0');
  EXPECT_NE(refusal(changed).find("another file"), std::string::npos);
  AdapterUse missing = changed;
  missing.file = "/nonexistent/x.safetensors";
  EXPECT_NE(refusal(missing).find("/nonexistent/x.safetensors"), std::string::npos);
  const std::string of_table = refusal(table_change());
  EXPECT_NE(of_table.find("embed_tokens.weight, a table"), std::string::npos) << of_table;
  EXPECT_EQ(drawn(engine, {}), base);
}

TEST(Adapters, WhatCannotBeAppliedIsRefusedAndLeavesTheModelAsItWas) {
  Engine engine(options(kZImage.folder));
  expect_refusals(engine);
}

// Ranks that share the model, and ranks that have one each.
TEST(Adapters, AllRanksRefuseTogether) {
  for (const bool of_each : {false, true}) {
    if (of_each && drawing_device().kind != DeviceKind::cpu) continue;  // they would want a GPU each
    EngineOptions several = options(kZImage.folder, Precision::f32, {.ulysses = 2});
    several.device_per_rank = of_each;
    Engine engine(several);
    expect_refusals(engine);
  }
}

}  // namespace
}  // namespace nostos
