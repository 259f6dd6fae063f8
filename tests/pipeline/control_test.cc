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

/// \return a request that draws a part of a picture anew, with that control.
GenerationRequest masked_request(std::optional<Control> control, const Mask& of = {mask(), 0}) {
  GenerationRequest made = request(std::move(control));
  made.images = {picture(3)};
  made.mask = of;
  return made;
}

/// \return a mask that keeps nothing.
Mask white_mask() {
  Mask made{mask(), 0};
  Image all = *made.image.image;
  std::ranges::fill(all.rgb, uint8_t{255});
  made.image.image = std::make_shared<const Image>(std::move(all));
  made.image.sha256 = std::string(64, 'b');
  return made;
}

/// \return the previews of all steps but the last, which are what each step predicts.
std::vector<Image> predictions(Engine& engine, const GenerationRequest& of) {
  std::vector<Image> made;
  Progress progress;
  progress.wants_preview = [](const PictureStep&) { return true; };
  progress.on_preview = [&](const PictureStep&, const Image& picture) { made.push_back(picture); };
  engine.generate(of, progress);
  return made;
}

class ControlDrawings : public testing::TestWithParam<ControlKind> {
 protected:
  ControlFile network_{GetParam(), tiny::kZImage.folder};
};

INSTANTIATE_TEST_SUITE_P(Kinds, ControlDrawings, testing::ValuesIn(kKinds),
                         [](const auto& info) { return std::string(name_of(info.param)); });

TEST_P(ControlDrawings, RanksDrawTheSameBits) {
  for (const Precision precision : drawing_precisions()) {
    Engine alone(options(network_.path(), precision));
    std::vector<GenerationRequest> requests{request(control(), 0), request(control(), 4),
                                            masked_request(control(), {mask(), 3})};
    if (GetParam() != ControlKind::union_1) requests.push_back(masked_request(Control{}));
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
  EXPECT_EQ(between(0, 1), whole);
  EXPECT_EQ(between(0.1, 0.5), between(0.25, 0.5));
  EXPECT_EQ(between(0, 0.6), between(0, 0.5));
}

TEST_P(ControlDrawings, StepsOutsideOfStartAndEndPredictAsWithoutControl) {
  Engine engine(options(network_.path()));
  const auto between = [&](double start, double end) {
    Control some = control();
    some.start = start, some.end = end;
    return predictions(engine, request(some));
  };
  const std::vector<Image> none = predictions(engine, request({})), whole = between(0, 1);
  const std::vector<Image> first = between(0, 0.5), second = between(0.5, 1);
  for (const std::vector<Image>* each : {&none, &whole, &first, &second}) ASSERT_EQ(each->size(), 3u);
  for (const size_t step : {0u, 1u}) {
    EXPECT_EQ(first[step], whole[step]) << step;
    EXPECT_EQ(second[step], none[step]) << step;
  }
  EXPECT_NE(whole[0], none[0]);
  // Of the same state, as the two steps before are the same.
  EXPECT_NE(first[2], whole[2]) << "it follows after its end";
  EXPECT_NE(second[2], none[2]) << "it does not follow from its start on";
}

TEST_P(ControlDrawings, ADrawingLeavesNothingForTheNext) {
  const bool sees_mask = GetParam() != ControlKind::union_1;
  const std::array kinds{request({}), request(control(0)), request(control(1)),
                         masked_request(sees_mask ? Control{} : control(1))};
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
  EXPECT_EQ(drawn(in_turns, request({})), drawn(engine, request({})));
}

TEST_P(ControlDrawings, TheNetworkIsLoadedForDrawingsWithControlAlone) {
  for (const bool takes_turns : {false, true}) {
    EngineOptions with = options(network_.path()), without = options({});
    if (takes_turns) with.memory.mode = without.memory.mode = MemoryMode::offload;
    Engine engine(with), plain(without);
    const auto weights = [](Engine& of, const GenerationRequest& made) {
      return of.generate(made).report.weight_bytes;
    };
    const size_t usual = weights(plain, request({}));
    GenerationRequest large = request({});  // whose memory is enough for the others
    large.height = large.width = 128;
    EXPECT_EQ(weights(engine, large), usual) << takes_turns;
    EXPECT_EQ(weights(engine, request({})), usual) << takes_turns;
    EXPECT_EQ(weights(engine, request(control(0, 0))), usual) << takes_turns;
    EXPECT_GT(weights(engine, request(control())), usual) << takes_turns;
    // Parts that take turns are loaded anew, and others stay; a GPU streams them instead.
    EXPECT_EQ(weights(engine, request({})) == usual, takes_turns && drawing_device().kind == DeviceKind::cpu);
  }
}

TEST_P(ControlDrawings, AMaskIsToldToNetworksThatReadIt) {
  // A mask that keeps nothing is no mask, but to a network that is told that the image is grey.
  GenerationRequest none = masked_request(control());
  none.mask.reset();
  none.strength = 1;
  Engine engine(options(network_.path()));
  const std::vector<float> white = drawn(engine, masked_request(control(), white_mask()));
  EXPECT_EQ(white == drawn(engine, none), GetParam() == ControlKind::union_1);
  GenerationRequest other = masked_request(control(), white_mask());
  other.images = {picture(4)};
  EXPECT_EQ(drawn(engine, other), white) << "what is drawn anew is shown to the network";
}

TEST_P(ControlDrawings, AMaskAloneIsToldToNetworksThatReadIt) {
  Engine engine(options(network_.path()));
  const GenerationRequest alone = masked_request(Control{});
  if (GetParam() == ControlKind::union_1) {
    EXPECT_THROW(engine.generate(alone), Error);
    return;
  }
  // Of the whole picture nothing is known, so that all of what the network does is its own.
  const auto white = [](std::optional<Control> control) { return masked_request(std::move(control), white_mask()); };
  const std::vector<float> plain = drawn(engine, white({}));
  EXPECT_NE(drawn(engine, white(Control{})), plain);
  EXPECT_EQ(drawn(engine, white(Control{.scale = 0})), plain);
  // Zeros are no picture of grey, which the VAE would make other numbers of.
  Image grey{80, 64, std::vector<uint8_t>(80 * 64 * 3, 128)};
  Control followed;
  followed.image =
      ReferenceImage{.sha256 = std::string(64, 'c'), .size = {80, 64}, .image = std::make_shared<const Image>(grey)};
  EXPECT_NE(drawn(engine, white(followed)), drawn(engine, white(Control{})));
}

TEST_P(ControlDrawings, AMaskAloneIsDrawnTogetherWithItsLikes) {
  if (GetParam() == ControlKind::union_1) GTEST_SKIP() << "it is told of no mask";
  Engine engine(options(network_.path()));
  GenerationRequest first = masked_request(Control{}), second = first;
  second.seed = 7;
  const std::vector<Generation> together = engine.generate(std::array{first, second});
  EXPECT_EQ(latents_of(together[0]), drawn(engine, first));
  EXPECT_EQ(latents_of(together[1]), drawn(engine, second));
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
    ready.image->image = std::make_shared<const Image>(preprocess(*ready.image->image, kind));
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
  const std::vector<float> before = drawn(controlled, request(control())), plain_adapted = drawn(plain, adapted);
  adapted.control = control(0, 1e-6);  // next to nothing
  const std::vector<float> barely = drawn(controlled, adapted);
  EXPECT_NE(barely, plain_adapted);
  for (size_t i = 0; i < barely.size(); ++i) EXPECT_NEAR(barely[i], plain_adapted[i], 1e-3) << i;
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
