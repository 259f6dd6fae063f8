// Tests previews: what they show, that they change nothing, and that all ranks agree on them and on leaving.
#include "pipeline/preview.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "pipeline/engine.h"

namespace nostos {
namespace {

const std::filesystem::path kTiny = std::filesystem::path(NOSTOS_SOURCE_DIR) / "tests/data/tiny/diffusers_test";
const std::filesystem::path kMini = std::filesystem::path(NOSTOS_SOURCE_DIR) / "models/mini";

EngineOptions options(const std::filesystem::path& model, const Parallelism& parallelism = {}) {
  EngineOptions made;
  made.model = model;
  made.precision = Precision::f32;
  made.parallelism = parallelism;
  return made;
}

GenerationRequest request(int64_t height, int64_t width, int64_t steps) {
  GenerationRequest made;
  made.prompt = "A boat on the sea at sunset";
  made.height = height;
  made.width = width;
  made.num_inference_steps = steps;
  made.guidance_scale = 3;
  return made;
}

using Previews = std::map<PictureStep, Image>;

/// Takes the preview of every step for which `wanted` holds.
Generation draw(
    Engine& engine, const GenerationRequest& request, Previews& previews,
    const std::function<bool(const PictureStep&)>& wanted = [](const PictureStep&) { return true; }) {
  Progress progress;
  progress.wants_preview = wanted;
  progress.on_preview = [&](const PictureStep& at, const Image& picture) {
    EXPECT_TRUE(previews.emplace(at, picture).second) << "step " << at.step << " of " << at.picture << " twice";
  };
  return engine.generate(request, progress);
}

void expect_same(const Generation& wanted, const Generation& got) {
  ASSERT_EQ(wanted.pictures.size(), got.pictures.size());
  for (size_t i = 0; i < wanted.pictures.size(); ++i) {
    const Picture &a = wanted.pictures[i], &b = got.pictures[i];
    EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0);
    EXPECT_EQ(a.image, b.image);
  }
}

/// \return the root mean square difference, of 255, between a preview and the picture's means over its pixels.
double distance(const Image& preview, const Image& picture) {
  const int64_t scale = picture.width / preview.width;
  double squares = 0;
  for (int64_t i = 0; i < preview.height * preview.width * 3; ++i) {
    const int64_t y = i / 3 / preview.width, x = i / 3 % preview.width;
    double mean = 0;
    for (int64_t j = 0; j < scale * scale; ++j)
      mean +=
          picture
              .rgb[static_cast<size_t>(((y * scale + j / scale) * picture.width + x * scale + j % scale) * 3 + i % 3)];
    squares += std::pow(mean / static_cast<double>(scale * scale) - preview.rgb[static_cast<size_t>(i)], 2);
  }
  return std::sqrt(squares / static_cast<double>(preview.height * preview.width * 3));
}

TEST(Preview, ChangesNothing) {
  Engine engine(options(kTiny));
  GenerationRequest two = request(24, 40, 4);
  two.num_outputs = 2;
  two.cfg_normalization = 1;
  const Generation without = engine.generate(two);
  Previews previews;
  const Generation with = draw(engine, two, previews);
  expect_same(without, with);
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (const auto& [at, picture] : previews) {
    steps.emplace_back(at.picture, at.step);
    EXPECT_EQ(picture.height, 12);
    EXPECT_EQ(picture.width, 20);
  }
  // The last of each picture is the picture.
  EXPECT_EQ(steps, (std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {0, 2}, {0, 3}, {1, 1}, {1, 2}, {1, 3}}));
}

TEST(Preview, OnlyStepsThatAreWantedHaveOne) {
  Engine engine(options(kTiny));
  Previews previews;
  draw(engine, request(16, 16, 6), previews, [](const PictureStep& at) { return at.step == 2 || at.step == 6; });
  ASSERT_EQ(previews.size(), 1u);
  EXPECT_EQ(previews.begin()->first, (PictureStep{0, 2}));
}

// Measured: 102, 108, 48, 21, 15, 14, 14 after the steps.
TEST(Preview, ComesCloserToThePictureStepByStep) {
  Engine engine(options(kMini));
  Previews previews;
  const Generation drawn = draw(engine, request(128, 160, 8), previews);
  ASSERT_EQ(previews.size(), 7u);
  const Image& picture = drawn.pictures[0].image;
  std::vector<double> distances;
  for (const auto& [step, preview] : previews) distances.push_back(distance(preview, picture));
  RecordProperty("distances", testing::PrintToString(distances));
  EXPECT_LT(distances.back(), 20) << testing::PrintToString(distances);
  EXPECT_LT(distances.back(), distances.front() / 2) << testing::PrintToString(distances);
}

// From pure noise a step shows the same picture however far it goes.
TEST(Preview, IsWhereTheStepLeadsNotWhereItEnds) {
  Engine engine(options(kTiny));
  std::vector<Image> shown;
  for (const double level : {0.9, 0.5, 0.1}) {
    GenerationRequest drawn = request(24, 40, 2);
    drawn.sigmas = {1, level};
    Previews previews;
    draw(engine, drawn, previews);
    shown.push_back(previews.at({0, 1}));
  }
  for (const Image& other : shown)
    for (size_t i = 0; i < other.rgb.size(); ++i) ASSERT_NEAR(other.rgb[i], shown[0].rgb[i], 1) << i;
}

TEST(Preview, IsTheSameOnManyRanks) {
  Engine engine(options(kTiny));
  const GenerationRequest asked = request(24, 40, 3);
  Previews wanted;
  const Generation alone = draw(engine, asked, wanted);
  for (const Parallelism& parallelism : {Parallelism{.ulysses = 2}, Parallelism{.ulysses = 3}, Parallelism{.cfg = 2},
                                         Parallelism{.ulysses = 2, .cfg = 2}}) {
    Engine many(options(kTiny, parallelism));
    Previews previews;
    expect_same(alone, draw(many, asked, previews));
    EXPECT_EQ(previews, wanted) << parallelism.ranks() << " ranks";
  }
}

TEST(CancelTogether, AllRanksLeaveAtTheEndOfAStep) {
  for (const int64_t ranks : {1, 2, 4}) {
    Engine engine(options(kTiny, {.ulysses = ranks}));
    std::atomic<bool> flag{false};
    int64_t last = 0;
    Progress progress;
    progress.cancel_together = &flag;
    progress.on_step = [&](int64_t step, int64_t, double) {
      last = step;
      flag = step == 2;
    };
    try {
      engine.generate(request(24, 40, 6), progress);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_EQ(last, 2) << ranks << " ranks";
  }
}

}  // namespace
}  // namespace nostos
