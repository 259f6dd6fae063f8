// Tests drawings that begin with an image, or with a part of one: the same bits on any number of ranks and in any
// batch, what masks keep, and which steps are drawn.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "ops/linear.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"
#include "pipeline/source_image.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;

constexpr ImageSize kSize{80, 64};

ReferenceImage image_of(std::string name, Image image) {
  const ImageSize size{image.height, image.width};
  return {name, std::string(64, name.front()), size, std::make_shared<const Image>(std::move(image))};
}

/// \return a mask that is `grey` within a rectangle and black around it.
ReferenceImage mask_of(std::string name, ImageSize size, uint8_t grey, int64_t top, int64_t left) {
  Image image{size.height, size.width, std::vector<uint8_t>(static_cast<size_t>(size.height * size.width * 3))};
  for (int64_t y = top; y < size.height - top; ++y)
    for (int64_t x = left; x < size.width - left; ++x)
      std::fill_n(&image.rgb[static_cast<size_t>((y * size.width + x) * 3)], 3, grey);
  return image_of(std::move(name), std::move(image));
}
ReferenceImage part() { return mask_of("p", {84, 64}, 255, 20, 10); }

GenerationRequest request(const tiny::Drawings& family, std::optional<Mask> mask, uint64_t seed = 42) {
  GenerationRequest made = family.fitted({.prompt = "a cat", .seed = seed});
  Image image = *tiny::Drawings::reference(0).image;
  image.width = 64;  // another aspect, so that both fits differ
  image.height = 84;
  image.rgb.resize(static_cast<size_t>(64 * 84 * 3));
  made.images = {image_of("source", std::move(image))};
  made.height = kSize.height;
  made.width = kSize.width;
  made.num_inference_steps = 4;
  made.guidance_scale = 2;
  made.strength = 0.7;
  made.mask = std::move(mask);
  return made;
}

EngineOptions options(const tiny::Drawings& family, Precision precision = Precision::f32,
                      const Parallelism& parallelism = {}) {
  EngineOptions made;
  made.model = family.folder;
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

class ImageDrawings : public testing::TestWithParam<tiny::Drawings> {};

INSTANTIATE_TEST_SUITE_P(Families, ImageDrawings, testing::Values(tiny::kZImage, tiny::kFlux2Klein),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(ImageDrawings, RanksDrawTheSameBits) {
  const tiny::Drawings& family = GetParam();
  for (const Precision precision : drawing_precisions()) {
    for (const std::optional<Mask>& mask : {std::optional<Mask>(), std::optional<Mask>({part(), 3})}) {
      Engine alone(options(family, precision));
      const Generation one = alone.generate(request(family, mask));
      for (const Parallelism& parallelism :
           {Parallelism{.ulysses = 2}, Parallelism{.ulysses = 3, .plan = PlanKind::axis},
            Parallelism{.ulysses = 4, .plan = PlanKind::axis}, Parallelism{.ulysses = 8},
            Parallelism{.ulysses = 2, .cfg = 2}}) {
        Engine engine(options(family, precision, parallelism));
        const Generation shared = engine.generate(request(family, mask));
        EXPECT_EQ(latents_of(shared), latents_of(one)) << parallelism.ulysses << " ranks";
        EXPECT_EQ(shared.pictures[0].image, one.pictures[0].image) << parallelism.ulysses << " ranks";
      }
    }
  }
}

TEST_P(ImageDrawings, BatchesDrawThemAsAlone) {
  const tiny::Drawings& family = GetParam();
  for (const std::optional<Mask>& mask : {std::optional<Mask>(), std::optional<Mask>({part(), 0})}) {
    Engine engine(options(family));
    GenerationRequest two = request(family, mask);
    two.num_outputs = 2;
    GenerationRequest other = request(family, mask, 7);
    other.prompt = "a dog in the rain";
    const std::vector<Generation> together = engine.generate(std::array{two, other});
    EXPECT_EQ(latents_of(together[0], 0), drawn(engine, request(family, mask)));
    EXPECT_EQ(latents_of(together[0], 1), drawn(engine, request(family, mask, 43)));
    EXPECT_EQ(latents_of(together[1]), drawn(engine, other));
  }
}

TEST_P(ImageDrawings, ADrawingLeavesNothingForTheNext) {
  const tiny::Drawings& family = GetParam();
  GenerationRequest plain = request(family, {});
  plain.images.clear();
  plain.strength.reset();
  const std::vector<GenerationRequest> kinds{plain, request(family, {}), request(family, Mask{part(), 0})};
  std::vector<std::vector<float>> alone;
  for (const GenerationRequest& kind : kinds) {
    Engine engine(options(family));
    alone.push_back(drawn(engine, kind));
  }
  EXPECT_NE(alone[0], alone[1]);
  EXPECT_NE(alone[1], alone[2]);
  Engine engine(options(family));
  for (const size_t i : {0u, 1u, 2u, 1u, 0u, 2u, 0u}) EXPECT_EQ(drawn(engine, kinds[i]), alone[i]) << i;
}

TEST_P(ImageDrawings, PartsThatTakeTurnsDrawThem) {
  const tiny::Drawings& family = GetParam();
  EngineOptions turns = options(family);
  turns.memory.mode = MemoryMode::offload;
  Engine engine(options(family)), in_turns(turns);
  const GenerationRequest of = request(family, Mask{part(), 2});
  EXPECT_EQ(drawn(in_turns, of), drawn(engine, of));
}

// The asked size is smaller than the drawn one: the picture is brought to it, and its edges are drawn out.
TEST_P(ImageDrawings, APictureOfTheDrawnSizeIsPreparedAsAnyOther) {
  const tiny::Drawings& family = GetParam();
  Engine engine(options(family));
  GenerationRequest of = request(family, {});
  of.images = {image_of("drawn", prepare_source(*of.images[0].image, resolve(of, engine.limits()),
                                                read_model_shape(family.folder).limits))};
  ASSERT_EQ(of.images[0].size, kSize);
  of.height = kSize.height - 2;
  of.width = kSize.width - 2;
  const ResolvedRequest resolved = resolve(of, engine.limits());
  ASSERT_EQ((ImageSize{resolved.drawn_height, resolved.drawn_width}), kSize);
  GenerationRequest prepared = of;
  prepared.images = {image_of("prepared", prepare_source(*of.images[0].image, resolved, engine.limits()))};
  ASSERT_NE(*prepared.images[0].image, *of.images[0].image);
  prepared.height = kSize.height;
  prepared.width = kSize.width;
  EXPECT_EQ(drawn(engine, of), drawn(engine, prepared));
}

TEST_P(ImageDrawings, AMaskKeepsWhatIsBlack) {
  const tiny::Drawings& family = GetParam();
  Engine engine(options(family));
  GenerationRequest black = request(family, Mask{mask_of("b", {84, 64}, 127, 0, 0), 0});
  const std::vector<float> kept = drawn(engine, black);
  black.prompt = "something else";
  black.strength = 1;
  EXPECT_EQ(drawn(engine, black), kept) << "the image is all that there is";

  // The part of the latents that a mask leaves alone is the image's, too, and its part is another.
  const std::vector<float> some = drawn(engine, request(family, Mask{part(), 0}));
  const ResolvedRequest resolved = resolve(request(family, Mask{part(), 0}), engine.limits());
  ModelShape shape = read_model_shape(family.folder);
  const std::vector<float> mask = prepare_mask(*part().image, resolved, shape);
  int64_t changed = 0, whole = 0;
  for (size_t i = 0; i < some.size(); ++i) {
    const float how_much = mask[i % mask.size()];
    if (how_much == 0)
      EXPECT_EQ(some[i], kept[i]) << i;
    else
      changed += some[i] != kept[i];
    whole += how_much == 1;
  }
  EXPECT_GT(whole, 0);
  EXPECT_GT(changed, whole / 2);
}

TEST_P(ImageDrawings, AWhiteMaskIsNone) {
  const tiny::Drawings& family = GetParam();
  if (family.has_cap) {  // the other family sees the image, too, where there is a mask
    Engine engine(options(family));
    EXPECT_EQ(drawn(engine, request(family, Mask{mask_of("w", {84, 64}, 255, 0, 0), 0})),
              drawn(engine, request(family, {})));
  }
}

TEST_P(ImageDrawings, BeginAsLateAsTheStrengthSays) {
  const tiny::Drawings& family = GetParam();
  Engine engine(options(family));
  for (const auto& [steps, strength, wanted] :
       {std::tuple{8, 0.6, 5}, {8, 0.75, 6}, {8, 0.05, 1}, {8, 1.0, 8}, {9, 0.5, 5}, {10, 0.2, 2}}) {
    GenerationRequest of = request(family, {});
    of.num_inference_steps = steps;
    of.strength = strength;
    int64_t done = 0, all = 0;
    Progress progress;
    progress.on_step = [&](int64_t step, int64_t of_all, double) { done = step, all = of_all; };
    engine.generate(of, progress);
    EXPECT_EQ(done, wanted) << strength;
    EXPECT_EQ(all, wanted) << strength;
  }
}

}  // namespace
}  // namespace nostos
