// Tests that nothing confuses height and width: one engine draws landscape, portrait and landscape again, in every way
// that an engine can draw.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine.h"
#include "pipeline/noise.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;
using Size = std::pair<int64_t, int64_t>;  // height, width

/// A way to draw, and whether its bits are those of one rank.
struct Way {
  std::string name;
  Parallelism parallelism{};
  MemoryOptions memory{};
  size_t kept_caption_bytes = 0;
  bool device_per_rank = false;
  tiny::Drawings family = tiny::kZImage;
};

// Keeps test listings readable.
void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

EngineOptions options(const Way& way) {
  EngineOptions made;
  made.model = way.family.folder;
  made.precision = Precision::f32;
  made.parallelism = way.parallelism;
  made.memory = way.memory;
  made.kept_caption_bytes = way.kept_caption_bytes;
  made.device_per_rank = way.device_per_rank;
  return made;
}

GenerationRequest request(const Way& way, const Size& size, uint64_t seed = 5) {
  GenerationRequest made;
  made.prompt = "two red apples";
  made.negative_prompt =
      "a long negative prompt of more than thirty-two tokens, so that it is padded to another length";
  std::tie(made.height, made.width) = size;
  made.num_inference_steps = 2;
  made.guidance_scale = 3;
  made.cfg_normalization = 0.7;
  made.seed = seed;
  return way.family.fitted(std::move(made));
}

using Previews = std::map<PictureStep, Image>;

/// Two requests, the first of two pictures, drawn together, with the previews of the first.
struct Drawn {
  std::vector<Generation> generations;
  Previews previews;
};

Drawn draw(const Way& way, Engine& engine, const Size& size) {
  std::vector<GenerationRequest> requests{request(way, size), request(way, size, 9)};
  requests[0].num_outputs = 2;
  requests[1].guidance_scale = 4;
  std::vector<Progress> progress(2);
  Drawn drawn;
  progress[0].wants_preview = [](const PictureStep&) { return true; };
  progress[0].on_preview = [&](const PictureStep& at, const Image& picture) { drawn.previews.emplace(at, picture); };
  drawn.generations = engine.generate(requests, progress);
  return drawn;
}

void expect_same(const Drawn& wanted, const Drawn& got, const std::string& what) {
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(wanted.generations[i].pictures.size(), got.generations[i].pictures.size()) << what;
    for (size_t j = 0; j < wanted.generations[i].pictures.size(); ++j) {
      const Picture &a = wanted.generations[i].pictures[j], &b = got.generations[i].pictures[j];
      ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
      EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
          << what << ": latents of picture " << j << " of request " << i;
      EXPECT_EQ(a.image, b.image) << what << ": pixels of picture " << j << " of request " << i;
    }
  }
}

class Turned : public testing::TestWithParam<Way> {};

// Each size is drawn alone once, by an engine that has drawn nothing before: on one rank, but for rings, which round in
// their own way. 21x38 and 38x21 are cropped out of 24x40 and 40x24.
TEST_P(Turned, OneEngineDrawsAsEnginesOfTheirOwn) {
  const Way& way = GetParam();
  Way alone{.name = "alone", .family = way.family};
  if (way.parallelism.ring > 1) alone.parallelism = way.parallelism;
  const Size landscape{24, 40}, portrait{40, 24}, cropped{21, 38}, cropped_portrait{38, 21}, flat{8, 64}, tall{64, 8};
  std::map<Size, Drawn> wanted;
  for (const Size& size : {landscape, portrait, cropped, cropped_portrait, flat, tall}) {
    Engine fresh(options(alone));
    wanted.emplace(size, draw(way, fresh, size));
  }
  const Image &a = wanted.at(landscape).generations[0].pictures[0].image,
              &b = wanted.at(portrait).generations[0].pictures[0].image;
  EXPECT_NE(a, Image({24, 40, b.rgb})) << "a turned picture is another one";
  Engine engine(options(way));
  for (const Size& size :
       {landscape, portrait, landscape, cropped_portrait, cropped, portrait, flat, tall, flat, cropped, landscape}) {
    const std::string what = fmt::format("{}x{}", size.first, size.second);
    const Drawn got = draw(way, engine, size);
    expect_same(wanted.at(size), got, what);
    // Parts that take turns on the device leave no room for previews.
    const bool has_previews = way.memory.mode != MemoryMode::offload && !way.memory.one_drawing;
    EXPECT_EQ(wanted.at(size).previews.size(), 2u) << what;
    EXPECT_EQ(got.previews, has_previews ? wanted.at(size).previews : Previews()) << what;
  }
}

TEST_P(Turned, GivenLatentsAreThoseOfTheSize) {
  const Way& way = GetParam();
  Engine engine(options(way));
  for (const auto& [height, width] : {Size{24, 40}, {40, 24}, {24, 40}}) {
    const auto latents = std::make_shared<Tensor>(Device{}, DType::f32, way.family.latents(height, width));
    fill_torch_cpu_normal(5, {latents->data<float>(), static_cast<size_t>(latents->shape().elements())});
    const GenerationRequest from_seed = request(way, {height, width});
    GenerationRequest given = request(way, {height, width}, 77);
    given.start = Latents{.file = "", .values = latents};
    const Generation a = engine.generate(from_seed), b = engine.generate(given);
    EXPECT_EQ(a.pictures[0].image, b.pictures[0].image) << height << "x" << width;
  }
}

std::vector<Way> ways_of(const tiny::Drawings& family) {
  std::vector<Way> ways{{.name = "one_rank"},
                        {.name = "kept_captions", .kept_caption_bytes = size_t{1} << 20},
                        {.name = "offload", .memory = {.mode = MemoryMode::offload}},
                        {.name = "one_drawing", .parallelism = {.ulysses = 2}, .memory = {.one_drawing = true}},
                        {.name = "two_ranks", .parallelism = {.ulysses = 2}, .kept_caption_bytes = size_t{1} << 20},
                        {.name = "axis", .parallelism = {.ulysses = 3, .plan = PlanKind::axis}},
                        {.name = "a_model_each", .parallelism = {.ulysses = 3}, .device_per_rank = true},
                        {.name = "halves", .parallelism = {.cfg = 2}},
                        {.name = "halves_axis", .parallelism = {.ulysses = 2, .cfg = 2, .plan = PlanKind::axis}},
                        {.name = "ring", .parallelism = {.ulysses = 2, .ring = 2}},
                        {.name = "ring_axis", .parallelism = {.ring = 3, .plan = PlanKind::axis}},
                        {.name = "ring_halves_offload",
                         .parallelism = {.ulysses = 2, .ring = 2, .cfg = 2, .plan = PlanKind::axis},
                         .memory = {.mode = MemoryMode::offload}}};
  for (Way& way : ways) {
    way.family = family;
    way.name = family.name + ("_" + way.name);
  }
  return ways;
}

/// All ways of one family, and those of the other that differ in what a family does.
std::vector<Way> ways() {
  std::vector<Way> all = ways_of(tiny::kZImage);
  for (Way& way : ways_of(tiny::kFlux2KleinEdits)) {
    const bool is_short = way.name.ends_with("_edits_offload") || way.name.ends_with("_edits_two_ranks") ||
                          way.name.ends_with("_edits_halves_axis");
    if (is_short) all.push_back(std::move(way));
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Ways, Turned, testing::ValuesIn(ways()),
                         [](const testing::TestParamInfo<Way>& info) { return info.param.name; });

}  // namespace
}  // namespace nostos
