// Tests drawings that follow a control image: the same bits on any number of ranks and in any batch, in which steps the
// image has a say, and what a mask tells the network.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "ops/linear.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"
#include "pipeline/tiny_control.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;
using tiny::ControlFile;
using tiny::ControlKind;

constexpr std::array kKinds{ControlKind::union_1, ControlKind::union_2_0, ControlKind::union_2_1, ControlKind::lite};

const char* name_of(ControlKind kind) {
  constexpr std::array kNames{"union_1", "union_2_0", "union_2_1", "lite"};
  return kNames[static_cast<size_t>(kind)];
}

/// \return a picture of colours. \param shade that tells it from others
ReferenceImage picture(int64_t shade) {
  Image image{80, 64, {}};
  for (int64_t y = 0; y < image.height; ++y)
    for (int64_t x = 0; x < image.width; ++x)
      for (int64_t channel = 0; channel < 3; ++channel)
        image.rgb.push_back(static_cast<uint8_t>((x * y * (channel + 1) + shade * 40 * channel + 3 * x) % 256));
  return {std::to_string(shade) + ".png",
          std::string(64, static_cast<char>('0' + shade)),
          {80, 64},
          std::make_shared<const Image>(std::move(image))};
}

/// \return a mask that is white within a rectangle.
ReferenceImage mask() {
  Image image{80, 64, std::vector<uint8_t>(80 * 64 * 3)};
  for (int64_t y = 16; y < 60; ++y)
    for (int64_t x = 20; x < 50; ++x) std::fill_n(&image.rgb[static_cast<size_t>((y * 64 + x) * 3)], 3, 255);
  return {"mask.png", std::string(64, 'a'), {80, 64}, std::make_shared<const Image>(std::move(image))};
}

GenerationRequest request(std::optional<Control> control, double guidance = 2, uint64_t seed = 42) {
  GenerationRequest made{.prompt = "a cat", .control = std::move(control), .height = 80, .width = 64, .seed = seed};
  made.negative_prompt = "a dog that is far away";
  made.num_inference_steps = 4;
  made.guidance_scale = guidance;
  return made;
}

Control control(int64_t shade = 0, double scale = 0.75) { return {.image = picture(shade), .scale = scale}; }

EngineOptions options(const std::filesystem::path& network, Precision precision = Precision::f32,
                      const Parallelism& parallelism = {}) {
  EngineOptions made;
  made.model = tiny::kZImage.folder;
  made.model.controlnet = network;
  made.device = drawing_device();
  set_precision(made, precision);
  made.parallelism = parallelism;
  made.threads = 2;
  return made;
}

std::vector<float> latents_of(const Generation& generation, size_t index = 0) {
  const Tensor& latents = generation.pictures.at(index).latents;
  return {latents.data<float>(), latents.data<float>() + latents.shape().elements()};
}

std::vector<float> drawn(Engine& engine, const GenerationRequest& of) { return latents_of(engine.generate(of)); }

class ControlDrawings : public testing::TestWithParam<ControlKind> {
 protected:
  ControlFile network_{GetParam(), tiny::kZImage.folder};
};

INSTANTIATE_TEST_SUITE_P(Kinds, ControlDrawings, testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(ControlDrawings, RanksDrawTheSameBits) {
  for (const Precision precision : drawing_precisions()) {
    Engine alone(options(network_.path(), precision));
    GenerationRequest masked = request(control());
    masked.images = {picture(3)};
    masked.mask = Mask{mask(), 3};
    const std::array requests{request(control(), 0), request(control(), 4), masked};
    std::vector<Generation> ones;
    for (const GenerationRequest& each : requests) ones.push_back(alone.generate(each));
    for (const Parallelism& parallelism :
         {Parallelism{.ulysses = 2}, Parallelism{.ulysses = 2, .plan = PlanKind::axis},
          Parallelism{.ulysses = 3, .plan = PlanKind::axis}, Parallelism{.ulysses = 4},
          Parallelism{.ulysses = 4, .plan = PlanKind::axis}, Parallelism{.ulysses = 8}}) {
      Engine engine(options(network_.path(), precision, parallelism));
      for (size_t i = 0; i < requests.size(); ++i) {
        const Generation shared = engine.generate(requests[i]);
        EXPECT_EQ(latents_of(shared), latents_of(ones[i])) << parallelism.ulysses << " ranks, request " << i;
        EXPECT_EQ(shared.pictures[0].image, ones[i].pictures[0].image) << parallelism.ulysses << " ranks";
      }
    }
    Engine halves(options(network_.path(), precision, {.ulysses = 2, .cfg = 2}));
    EXPECT_EQ(drawn(halves, requests[1]), latents_of(ones[1]));
  }
}

TEST_P(ControlDrawings, BatchesDrawThemAsAlone) {
  Engine engine(options(network_.path()));
  for (const double guidance : {0., 4.}) {
    GenerationRequest two = request(control(), guidance);
    two.num_outputs = 2;
    GenerationRequest other = request(control(), 4 - guidance, 7);
    other.prompt = "a dog in the rain";
    const std::vector<Generation> together = engine.generate(std::array{two, other});
    EXPECT_EQ(latents_of(together[0], 0), drawn(engine, request(control(), guidance)));
    EXPECT_EQ(latents_of(together[0], 1), drawn(engine, request(control(), guidance, 43)));
    EXPECT_EQ(latents_of(together[1]), drawn(engine, other));
  }
}

TEST_P(ControlDrawings, PassesThatRunApartDrawTheSameBits) {
  GenerationRequest large = request(control());  // so many tokens that one rank has its passes apart
  large.height = large.width = 128;
  large.num_inference_steps = 2;
  Engine alone(options(network_.path())), two(options(network_.path(), Precision::f32, {.ulysses = 2}));
  EXPECT_EQ(drawn(alone, large), drawn(two, large));
}

TEST_P(ControlDrawings, AControlImageHasItsSay) {
  Engine engine(options(network_.path()));
  std::set<std::vector<float>> seen;
  for (const double guidance : {0., 4.}) {
    EXPECT_TRUE(seen.insert(drawn(engine, request({}, guidance))).second);
    for (const int64_t shade : {0, 1}) {
      for (const double scale : {0.5, 1.})
        EXPECT_TRUE(seen.insert(drawn(engine, request(control(shade, scale), guidance))).second) << shade;
    }
  }
}

TEST_P(ControlDrawings, AScaleOfZeroIsNoControl) {
  Engine engine(options(network_.path())), plain(options({}));
  const std::vector<float> wanted = drawn(plain, request({}));
  EXPECT_EQ(drawn(engine, request(control(0, 0))), wanted);
  EXPECT_EQ(drawn(engine, request({})), wanted);
  Control nowhere = control();  // of four steps none lies there
  nowhere.start = 0.3, nowhere.end = 0.6;
  EXPECT_EQ(drawn(engine, request(nowhere)), wanted);
}

TEST_P(ControlDrawings, StartAndEndAreStepsOfTheDrawing) {
  Engine engine(options(network_.path()));
  const auto between = [&](double start, double end) {
    Control some = control();
    some.start = start, some.end = end;
    return drawn(engine, request(some));
  };
  const std::vector<float> whole = between(0, 1);
  EXPECT_NE(between(0, 0.5), whole);
  EXPECT_NE(between(0.5, 1), whole);
  EXPECT_NE(between(0.5, 1), between(0, 0.5));
  EXPECT_EQ(between(0.1, 0.5), between(0.25, 0.5));
  EXPECT_EQ(between(0, 0.6), between(0, 0.5));
}

TEST_P(ControlDrawings, ADrawingLeavesNothingForTheNext) {
  GenerationRequest masked = request(control(1));
  masked.images = {picture(3)};
  masked.mask = Mask{mask(), 0};
  const std::array kinds{request({}), request(control(0)), request(control(1)), masked};
  std::vector<std::vector<float>> alone;
  for (const GenerationRequest& kind : kinds) {
    Engine engine(options(network_.path()));
    alone.push_back(drawn(engine, kind));
  }
  EngineOptions keeping = options(network_.path());
  keeping.kept_caption_bytes = size_t{1} << 20;
  Engine engine(keeping);
  for (const size_t i : {0u, 1u, 2u, 1u, 3u, 2u, 0u, 3u, 1u}) EXPECT_EQ(drawn(engine, kinds[i]), alone[i]) << i;
}

TEST_P(ControlDrawings, PartsThatTakeTurnsDrawThem) {
  EngineOptions turns = options(network_.path());
  turns.memory.mode = MemoryMode::offload;
  Engine engine(options(network_.path())), in_turns(turns);
  EXPECT_EQ(drawn(in_turns, request(control())), drawn(engine, request(control())));
}

TEST_P(ControlDrawings, AMaskIsToldToNetworksThatReadIt) {
  // With all of the image known but for a part, what stands under the mask is not seen.
  GenerationRequest masked = request(control());
  masked.images = {picture(3)};
  masked.mask = Mask{mask(), 0};
  GenerationRequest white = masked;
  Image all = *mask().image;
  std::ranges::fill(all.rgb, uint8_t{255});
  white.mask->image.image = std::make_shared<const Image>(std::move(all));
  white.mask->image.sha256 = std::string(64, 'b');
  Engine engine(options(network_.path()));
  const std::vector<float> none = drawn(engine, [&] {
    GenerationRequest made = white;
    made.mask.reset();
    made.strength = 1;
    return made;
  }());
  const bool sees_mask = GetParam() != ControlKind::union_1;
  // A white mask keeps nothing: it is no mask, but to a network that is told that the image is grey.
  EXPECT_EQ(drawn(engine, white) == none, !sees_mask);
  EXPECT_NE(drawn(engine, masked), none);
}

TEST_P(ControlDrawings, PreprocessorsMakeTheControlImage) {
  Engine engine(options(network_.path()));
  std::set<std::vector<float>> seen;
  for (const Preprocessor kind : {Preprocessor::none, Preprocessor::canny, Preprocessor::gray, Preprocessor::tile}) {
    Control made = control();
    made.preprocessor = kind;
    const std::vector<float> latents = drawn(engine, request(made));
    EXPECT_TRUE(seen.insert(latents).second) << name(kind);
    Control ready = control();
    ready.image.image = std::make_shared<const Image>(preprocess(*ready.image.image, kind));
    EXPECT_EQ(drawn(engine, request(ready)), latents) << name(kind);
  }
}

TEST(ControlDrawings, BeginNowhereWithoutANetwork) {
  Engine plain(options({}));
  EXPECT_THROW(plain.generate(request(control())), Error);
  EngineOptions klein = options({});
  klein.model = tiny::kFlux2Klein.folder;
  Engine other(klein);
  EXPECT_THROW(other.generate(request(control())), Error);
  const ControlFile network(ControlKind::lite, tiny::kZImage.folder);
  klein.model.controlnet = network.path();
  EXPECT_THROW(Engine refused(klein), Error);
}

TEST(ControlDrawings, AdaptersChangeTheTransformerAlone) {
  const std::filesystem::path folder = tiny::kData / "tiny/varied";
  const ControlFile network(ControlKind::union_2_1, folder);
  EngineOptions with = options(network.path()), without = options({});
  with.model.model = without.model.model = folder;
  Engine controlled(with), plain(without);
  const std::filesystem::path file = tiny::kData / "adapters/zimage/ai_toolkit.safetensors";
  const AdapterUse adapter{.name = "a", .file = file.string(), .sha256 = file_sha256(file)};
  GenerationRequest adapted = request({});
  adapted.adapters = {adapter};
  EXPECT_EQ(drawn(controlled, adapted), drawn(plain, adapted));
  const std::vector<float> before = drawn(controlled, request(control()));
  adapted.control = control();
  EXPECT_NE(drawn(controlled, adapted), before);
  EXPECT_EQ(drawn(controlled, request(control())), before);
}

TEST(ControlDrawings, HaveTheControlImagesSize) {
  const ControlFile network(ControlKind::lite, tiny::kZImage.folder);
  Engine engine(options(network.path()));
  GenerationRequest of = request(control());
  const std::vector<float> wanted = drawn(engine, of);
  of.height.reset();
  of.width.reset();
  EXPECT_EQ(drawn(engine, of), wanted);
}

}  // namespace
}  // namespace nostos
