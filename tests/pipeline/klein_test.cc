// Tests what drawings of FLUX.2-klein have that other families' have not: guidance that a distilled model ignores,
// prompts padded to a request's own length, reference images that change from drawing to drawing.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <vector>

#include "base/error.h"
#include "io/test_files.h"
#include "parallel/thread_communicator.h"
#include "pipeline//engine.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

const std::filesystem::path kDistilled = tiny::kData / "klein_tiny/distilled", kBase = tiny::kFlux2Klein.folder;

EngineOptions options(const std::filesystem::path& model, size_t kept_caption_bytes = 0,
                      const Parallelism& parallelism = {}) {
  EngineOptions made;
  made.model = model;
  made.precision = Precision::f32;
  made.kept_caption_bytes = kept_caption_bytes;
  made.parallelism = parallelism;
  return made;
}

/// \param references which of the pictures, in their order
GenerationRequest request(double guidance, const std::vector<int64_t>& references = {}, int64_t padded_to = 48) {
  GenerationRequest made;
  made.prompt = "two red apples";
  made.height = 24;
  made.width = 40;
  made.num_inference_steps = 2;
  made.guidance_scale = guidance;
  made.max_sequence_length = padded_to;
  for (const int64_t index : references) made.images.push_back(tiny::Drawings::reference(index));
  return made;
}

bool are_same(const Picture& a, const Picture& b) {
  return a.latents.shape() == b.latents.shape() &&
         std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()) == 0 &&
         a.image == b.image;
}

Picture draw(Engine& engine, const GenerationRequest& request) {
  return std::move(engine.generate(request).pictures.at(0));
}
/// \return what an engine draws that has drawn nothing before, on one rank.
Picture draw_alone(const std::filesystem::path& model, const GenerationRequest& request) {
  Engine engine(options(model));
  return draw(engine, request);
}

TEST(Klein, ADistilledModelIgnoresGuidanceAndNegativePrompts) {
  Engine engine(options(kDistilled));
  const Picture plain = draw(engine, request(1));
  for (const double guidance : {0.0, 4.0, 100.0}) {
    GenerationRequest guided = request(guidance);
    guided.negative_prompt = "rain";
    const Generation made = engine.generate(guided);
    EXPECT_FALSE(made.resolved.is_guided) << guidance;
    EXPECT_FALSE(made.cut.negative);
    EXPECT_TRUE(are_same(plain, made.pictures.at(0))) << guidance;
  }
  GenerationRequest other = request(1);
  other.prompt = "a dog";
  EXPECT_FALSE(are_same(plain, draw(engine, other)));
}

TEST(Klein, ADistilledModelHasNoHalves) {
  Engine engine(options(kDistilled, 0, {.cfg = 2}));
  expect_error(
      [&] { engine.generate(request(4)); }, ErrorKind::invalid_input,
      {"--cfg-parallel-degree 2 ", "this model is distilled and draws without guidance: use --cfg-parallel-degree 1"});
}

TEST(Klein, ABaseModelIsGuidedFromAboveOne) {
  Engine engine(options(kBase));
  GenerationRequest negative = request(1);
  negative.negative_prompt = "rain";
  const Picture plain = draw(engine, request(1));
  EXPECT_TRUE(are_same(plain, draw(engine, negative)));
  EXPECT_TRUE(are_same(plain, draw(engine, request(0.5))));
  const Picture guided = draw(engine, request(4));
  EXPECT_FALSE(are_same(plain, guided));
  negative.guidance_scale = 4;
  EXPECT_FALSE(are_same(guided, draw(engine, negative)));
}

// Pads are attended to: with more of them a prompt is drawn otherwise, and its kept embedding is another.
TEST(Klein, KeptPromptEmbeddingsAreOfTheRequestsLength) {
  for (const std::filesystem::path& model : {kDistilled, kBase}) {
    Engine kept(options(model, size_t{1} << 20));
    std::map<int64_t, Picture> wanted;
    for (const int64_t length : {48, 64, 30}) wanted.emplace(length, draw_alone(model, request(4, {}, length)));
    EXPECT_FALSE(are_same(wanted.at(48), wanted.at(64)));
    EXPECT_FALSE(are_same(wanted.at(48), wanted.at(30)));
    for (const int64_t length : {48, 64, 48, 30, 64, 30, 48})
      EXPECT_TRUE(are_same(wanted.at(length), draw(kept, request(4, {}, length)))) << length << " of " << model;
  }
}

// Together in one batch, too: of lengths of their own.
TEST(Klein, PromptsOfSeveralLengthsAreDrawnTogetherAsAlone) {
  for (const size_t kept_bytes : {size_t{0}, size_t{1} << 20}) {
    Engine engine(options(kBase, kept_bytes));
    const std::vector<GenerationRequest> requests{request(4, {1}, 48), request(4, {1}, 64), request(1, {1}, 48)};
    for (int again = 0; again < 2; ++again) {
      const std::vector<Generation> together = engine.generate(requests);
      for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_TRUE(are_same(draw_alone(kBase, requests[i]), together[i].pictures.at(0))) << i;
    }
  }
}

// Each drawing but the first finds the memory, the positions and the tokens that another has left. Two references in
// another order have as many tokens, at other positions.
TEST(Klein, ReferencesOfTheDrawingBeforeLeaveNoTrace) {
  const std::vector<std::vector<int64_t>> all{{1, 2}, {2, 1}, {1}, {}, {2}};
  const auto edit = [&](size_t which) { return request(4, all[which]); };
  std::vector<Picture> wanted;
  for (size_t i = 0; i < all.size(); ++i) {
    wanted.push_back(draw_alone(kBase, edit(i)));
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(are_same(wanted[j], wanted[i])) << i << " and " << j;
  }
  for (const Parallelism& parallelism : {Parallelism{}, Parallelism{.ulysses = 2}}) {
    Engine engine(options(kBase, 0, parallelism));
    for (const size_t which : {0, 1, 0, 2, 3, 4, 2, 3, 1})
      EXPECT_TRUE(are_same(wanted[which], draw(engine, edit(which)))) << which << " on " << parallelism.ranks();
  }
}

TEST(Klein, ReferencesAreEncodedInEveryWayToUseMemory) {
  for (const std::filesystem::path& model : {kDistilled, kBase}) {
    const std::vector<GenerationRequest> requests{request(3, {0, 2}), request(3, {2})};
    std::vector<Picture> wanted;
    for (const GenerationRequest& drawn : requests) wanted.push_back(draw_alone(model, drawn));
    for (const MemoryOptions& memory :
         {MemoryOptions{.mode = MemoryMode::offload}, MemoryOptions{.one_drawing = true}}) {
      EngineOptions made = options(model);
      made.memory = memory;
      Engine engine(made);
      for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_TRUE(are_same(wanted[i], draw(engine, requests[i]))) << i << " of " << model;
    }
  }
}

TEST(Klein, AReferenceThatWasNotReadIsRefused) {
  Engine engine(options(kBase));
  GenerationRequest drawn = request(1, {1});
  drawn.images[0].image.reset();
  expect_error([&] { engine.generate(drawn); }, ErrorKind::invalid_input, {"1.png", "was not read"});
}

TEST(Klein, PixelsOfAnotherSizeThanTheImageSaysAreRefused) {
  Engine engine(options(kBase));
  GenerationRequest drawn = request(1, {1});
  drawn.images[0].size.width += 16;
  expect_error([&] { engine.generate(drawn); }, ErrorKind::invalid_input, {"image[0] (1.png)", "its size is said"});
}

TEST(Klein, ProcessesCompareTheReferencesOfSeveralRequestsByTheirHash) {
  run_thread_ranks(2, [&](Communicator& world) {
    EngineOptions made = options(kDistilled);
    made.parallelism.ulysses = 2;
    Engine engine(made, &world);
    std::vector<GenerationRequest> requests{request(1, {1}), request(2, {1})};
    for (GenerationRequest& drawn : requests) drawn.images[0].sha256.clear();
    expect_error([&] { engine.generate(requests); }, ErrorKind::invalid_input, {"sha256"});
    for (GenerationRequest& drawn : requests) {
      drawn.images[0].sha256 = std::string(64, '1');
      if (world.rank() != 0) drawn.images[0].image.reset();
    }
    EXPECT_EQ(engine.generate(requests).size(), 2u);
    requests[1].images[0].sha256 = std::string(64, '2');
    expect_error([&] { engine.generate(requests); }, ErrorKind::invalid_input,
                 {"request 2 of 2", "images, strength, mask or control"});
  });
}

// Encoding a large reference takes more memory than drawing a small image, whether or not parts take turns.
TEST(Klein, TheReportHasTheEncodersMemory) {
  GenerationRequest drawn = request(1, {1});
  drawn.height = drawn.width = 16;
  Image image{256, 256, std::vector<uint8_t>(256 * 256 * 3)};
  drawn.images[0].size = {image.height, image.width};
  drawn.images[0].image = std::make_shared<const Image>(std::move(image));
  EngineOptions made = options(kBase);
  const size_t resident = Engine(made).generate(drawn).report.arena_bytes;
  made.memory.one_drawing = true;
  const size_t in_turns = Engine(made).generate(drawn).report.arena_bytes;
  EXPECT_GT(10 * in_turns, 9 * resident);
  EXPECT_LE(in_turns, resident);
}

TEST(Klein, TheBaseModelEditsOnThreeRanksOfEachHalf) {
  const GenerationRequest drawn = request(4, {0, 1});
  const Picture wanted = draw_alone(kBase, drawn);
  for (const parallel::PlanKind plan : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
    Engine halves(options(kBase, 0, {.ulysses = 3, .cfg = 2, .plan = plan}));
    EXPECT_TRUE(are_same(wanted, draw(halves, drawn))) << parallel::name(plan);
  }
}

using Previews = std::map<PictureStep, Image>;

Picture draw(Engine& engine, const GenerationRequest& request, Previews& previews) {
  Progress progress;
  progress.wants_preview = [](const PictureStep&) { return true; };
  progress.on_preview = [&](const PictureStep& at, const Image& picture) { previews.emplace(at, picture); };
  return std::move(engine.generate(request, progress).pictures.at(0));
}

TEST(KleinPreview, ChangesNothingAndHasAPixelAToken) {
  for (const std::filesystem::path& model : {kDistilled, kBase}) {
    Engine engine(options(model));
    GenerationRequest drawn = request(4, {1});
    drawn.num_inference_steps = 4;
    const int64_t side = engine.limits().pixels_per_latent;
    Previews previews;
    EXPECT_TRUE(are_same(draw(engine, drawn), draw(engine, drawn, previews)));
    EXPECT_EQ(previews.size(), 3u);
    for (const auto& [at, picture] : previews) {
      EXPECT_EQ(picture.height, 24 / side);
      EXPECT_EQ(picture.width, 40 / side);
    }
  }
}

// From pure noise a step shows the same picture however far it goes, if it goes where the model points.
TEST(KleinPreview, IsWhereTheStepLeadsNotWhereItEnds) {
  Engine engine(options(kBase));
  std::vector<Image> shown;
  for (const double level : {0.9, 0.5, 0.1}) {
    GenerationRequest drawn = request(3);
    drawn.num_inference_steps.reset();
    drawn.sigmas = {1, level};
    Previews previews;
    draw(engine, drawn, previews);
    shown.push_back(previews.at({0, 1}));
  }
  for (const Image& other : shown)
    for (size_t i = 0; i < other.rgb.size(); ++i) ASSERT_NEAR(other.rgb[i], shown[0].rgb[i], 1) << i;
}

}  // namespace
}  // namespace nostos
