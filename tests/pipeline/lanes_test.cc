// Tests lanes: a drawing whose ranks change between any two steps has the bits of one rank, and so have drawings that
// are drawn at once.
#include "pipeline/lane.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "pipeline/lane_walks.h"
#include "pipeline/tiny_control.h"

namespace nostos {
namespace {

using parallel::PlanKind;
using namespace lanes;

class FamilyLanes : public testing::TestWithParam<tiny::Drawings> {
 protected:
  GenerationRequest request(int64_t height, int64_t width, double guidance, int64_t steps = 6) const {
    return GetParam().fitted(lanes::request(height, width, guidance, steps));
  }
};

INSTANTIATE_TEST_SUITE_P(Families, FamilyLanes, testing::ValuesIn(tiny::kFamilies),
                         [](const testing::TestParamInfo<tiny::Drawings>& info) { return info.param.name; });

TEST_P(FamilyLanes, AnotherLaneAtEveryStepDrawsThePictureOfOneRank) {
  uint32_t seed = 1;
  int64_t changes = 0;
  for (const Precision precision : drawing_precisions()) {
    for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
      for (const auto& [height, width] : {std::pair{40, 24}, std::pair{21, 44}}) {
        for (const double guidance : {0.0, 4.0}) {
          GenerationRequest drawn = request(height, width, guidance);
          if (guidance > 0 && GetParam().has_cap) drawn.cfg_normalization = 0.7;
          if (guidance > 0) drawn.cfg_truncation = 0.8;
          expect_walks_as_alone(options(GetParam().folder, precision, plan), {drawn}, seed++,
                                fmt::format("{}x{} guidance {} by {}", height, width, guidance, parallel::name(plan)),
                                changes);
        }
      }
    }
  }
  EXPECT_GE(changes, 40);
}

// The pictures of one batch go into several where a rank has too many rows, and stay apart on the way back.
TEST_P(FamilyLanes, BatchesAreDealtAnew) {
  if (GetParam().references > 0) GTEST_SKIP() << "they would only make it longer";
  int64_t changes = 0;
  const int64_t side = GetParam().pixels_per_latent == 2 ? 128 : 256;
  const auto requests_of = [&](double guidance) {
    std::vector<GenerationRequest> made{request(side, side - side / 8, guidance, 3),
                                        request(side, side - side / 8, 3, 3)};
    made[0].num_outputs = 3;
    made[1].prompt = "two red apples on a table of wood that stands in a garden of an old house by the sea";
    made[1].seed = 7;
    return made;
  };
  expect_walks_as_alone(options(GetParam().folder), requests_of(3), 5, "guided", changes);
  expect_walks_as_alone(options(GetParam().folder), requests_of(0), 6, "mixed", changes);
  EXPECT_GE(changes, 3);
}

TEST_P(FamilyLanes, PreviewsAndProgressGoOn) {
  struct Seen {
    std::map<PictureStep, Image> previews;
    std::vector<int64_t> steps;
  };
  const auto follow = [](Seen& seen) {
    Progress progress;
    progress.wants_preview = [](const PictureStep&) { return true; };
    progress.on_preview = [&](const PictureStep& at, const Image& picture) { seen.previews.emplace(at, picture); };
    progress.on_step = [&](int64_t step, int64_t steps, double) {
      EXPECT_EQ(steps, 12);
      seen.steps.push_back(step);
    };
    return progress;
  };
  GenerationRequest drawn = request(24, 40, 4);
  drawn.num_outputs = 2;
  Engine engine(options(GetParam().folder));
  Seen alone, walked;
  const Progress of_alone = follow(alone), of_walked = follow(walked);
  const Generation wanted = std::move(engine.draw({&drawn, 1}, {&of_alone, 1}, {{0}}).front());
  int64_t changes = 0;
  const Generation got = std::move(draw_walking(engine, {&drawn, 1}, 11, changes, {&of_walked, 1}).front());
  expect_same(wanted, got, "with previews");
  EXPECT_EQ(walked.previews.size(), 10u);
  EXPECT_EQ(walked.previews, alone.previews);
  EXPECT_EQ(walked.steps, alone.steps);
}

ReferenceImage source_image(int64_t height, int64_t width, char hash, bool is_mask) {
  Image image{height, width, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const bool inside = y > height / 4 && y < height * 3 / 4 && x > width / 3;
      for (int64_t channel = 0; channel < 3; ++channel)
        image.rgb.push_back(is_mask ? 255 * inside : static_cast<uint8_t>(x * y * (channel + 1) % 256));
    }
  return {"image.png", std::string(64, hash), {height, width}, std::make_shared<const Image>(std::move(image))};
}

TEST_P(FamilyLanes, ImagesToBeginWithAndMasksGoAlong) {
  if (GetParam().references > 0) GTEST_SKIP() << "the image to begin with would be a reference, too";
  int64_t changes = 0;
  for (const bool is_masked : {false, true}) {
    GenerationRequest drawn = request(84, 64, 2);
    drawn.images = {source_image(84, 64, 'a', false)};
    drawn.strength = 0.7;
    if (is_masked) drawn.mask = Mask{source_image(84, 64, 'b', true), 3};
    expect_walks_as_alone(options(GetParam().folder), {drawn}, 21, is_masked ? "with a mask" : "without", changes);
  }
  EXPECT_GE(changes, 4);
}

TEST(Lanes, ControlImagesGoAlong) {
  const tiny::ControlFile network(tiny::ControlKind::union_2_1, tiny::kZImage.folder);
  int64_t changes = 0;
  for (const Precision precision : drawing_precisions()) {
    GenerationRequest drawn = request(80, 64, 2);
    drawn.control = Control{.image = source_image(80, 64, 'c', false), .scale = 0.75, .end = 0.7};
    EngineOptions of = options(tiny::kZImage.folder, precision);
    of.model.controlnet = network.path();
    expect_walks_as_alone(of, {drawn}, 31, "controlled", changes);
    drawn.images = {source_image(80, 64, 'a', false)};
    drawn.mask = Mask{source_image(80, 64, 'b', true), 0};
    expect_walks_as_alone(of, {drawn}, 32, "controlled, with a mask", changes);
  }
  EXPECT_GE(changes, 8);
}

// Ranks with a model each, and parts that take turns.
TEST(Lanes, DrawTheSameHoweverTheModelIsKept) {
  int64_t changes = 0;
  EngineOptions each = options(tiny::kZImage.folder), turns = each;
  each.device_per_rank = each.device.kind == DeviceKind::cpu;
  turns.memory.mode = MemoryMode::offload;
  for (const EngineOptions& of : {each, turns}) expect_walks_as_alone(of, {request(24, 40, 4)}, 41, "kept", changes);
  EXPECT_GE(changes, 8);
}

TEST(Lanes, ReportWhatTheyDid) {
  Engine engine(options(tiny::kZImage.folder));
  const GenerationRequest drawn = request(24, 40, 0);
  std::vector<LaneStep> asked;
  std::vector<Lane> told;
  const Lane two{{2, 0}}, three{{3, 1, 0}};
  const LaneChange change{.next =
                              [&](const LaneStep& at) {
                                asked.push_back(at);
                                return at.steps_done < 2 ? two : three;
                              },
                          .changed = [&](const Lane& now) { told.push_back(now); }};
  const Generation made = std::move(engine.draw({&drawn, 1}, {}, two, change).front());
  ASSERT_EQ(asked.size(), 6u) << "at every step but the first after a change";
  EXPECT_EQ(asked[0].lane, two);
  EXPECT_EQ(asked[0].steps, 6);
  EXPECT_EQ(asked[2].steps_done, 2);
  EXPECT_EQ(asked[3].steps_done, 3);
  EXPECT_EQ(asked[3].lane, three);
  EXPECT_EQ(told, std::vector{three});
  const RunReport& report = made.report;
  ASSERT_EQ(report.lanes.size(), 2u);
  EXPECT_EQ(report.lanes[0].lane, two);
  EXPECT_EQ(report.lanes[0].change_ms, 0);
  EXPECT_EQ(report.lanes[1].steps_done, 2);
  EXPECT_GT(report.lanes[1].change_ms, 0);
  EXPECT_EQ(report.ranks.size(), 3u);
  EXPECT_EQ(report.step_ms.size(), 6u);
}

TEST(Lanes, ThatCannotBeAreRefused) {
  Engine engine(options(tiny::kZImage.folder));
  const GenerationRequest drawn = request(16, 16, 2, 2);
  const auto refusal = [&](const Lane& lane, const LaneChange& change = {}) -> std::string {
    try {
      engine.draw({&drawn, 1}, {}, lane, change);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal({}), "a lane has no places: give it one at least");
  EXPECT_EQ(refusal({{0, 4}}), "a lane names place 4 of an engine with 4: use 0 to 3");
  EXPECT_EQ(refusal({{0, -1}}), "a lane names place -1 of an engine with 4: use 0 to 3");
  EXPECT_EQ(refusal({{1, 0, 1}}), "a lane names place 1 twice");
  EXPECT_EQ(refusal({{0, 1, 2}, true}),
            "a lane of 3 places has no halves for the branches of guidance: give it an even number");
  // Also on the way, and then the drawing's places are free again.
  const auto to = [](const Lane& lane) { return LaneChange{.next = [lane](const LaneStep&) { return lane; }}; };
  EXPECT_EQ(refusal({{0, 1}}, to({{0, 5}})), "a lane names place 5 of an engine with 4: use 0 to 3");
  EXPECT_EQ(refusal({{0, 1}}, to({})), "a lane has no places: give it one at least");
  std::string inner;
  const LaneChange taken{.next = [&](const LaneStep& at) {
    if (inner.empty()) inner = refusal({{3, 1}});
    return at.lane;
  }};
  EXPECT_EQ(refusal({{0, 1}}, taken), "");
  EXPECT_EQ(inner, "a lane names place 1, which another drawing has");
  EXPECT_EQ(refusal({{0, 1, 2, 3}}), "");
  EXPECT_TRUE(engine.lost_places().empty());
}

TEST(Lanes, AreLeftByADrawingThatIsCancelledBetweenThem) {
  Engine engine(options(tiny::kZImage.folder));
  const GenerationRequest drawn = request(24, 40, 4);
  const Generation wanted = std::move(engine.draw({&drawn, 1}, {}, {{0}}).front());
  for (const int64_t at_change : {1, 3}) {
    std::atomic<bool> cancel{false};
    Progress progress;
    progress.cancel = &cancel;
    Walk walk(51, kPlaces, true);
    int64_t changes = 0;
    const LaneChange change{.next = [&](const LaneStep&) { return walk.next(); },
                            .changed = [&](const Lane&) { cancel = ++changes == at_change; }};
    try {
      engine.draw({&drawn, 1}, {&progress, 1}, walk.next(), change);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_EQ(changes, at_change);
    expect_same(wanted, engine.draw({&drawn, 1}, {}, {{0, 1, 2, 3}}).front(), "after a cancelled drawing");
  }
}

TEST(Lanes, OneOfSeveralRequestsIsGivenUpOnTheWay) {
  Engine engine(options(tiny::kZImage.folder));
  std::vector<GenerationRequest> requests{request(24, 40, 4), request(24, 40, 4)};
  requests[1].seed = 9;
  const Generation wanted = std::move(engine.draw({&requests[0], 1}, {}, {{0}}).front());
  std::atomic<bool> cancel{false};
  std::vector<Progress> progress(2);
  progress[1].cancel = &cancel;
  progress[0].on_step = [&](int64_t step, int64_t, double) { cancel = step >= 3; };
  int64_t changes = 0;
  const std::vector<Generation> made = draw_walking(engine, requests, 61, changes, progress);
  expect_same(wanted, made[0], "beside a cancelled one");
  EXPECT_TRUE(made[1].cancelled);
  EXPECT_TRUE(made[1].pictures.empty());
}

TEST(LanesAtOnce, DrawWhatEachWouldAlone) {
  EngineOptions shared = options(tiny::kZImage.folder);
  shared.kept_caption_bytes = size_t{1} << 20;
  expect_drawings_at_once_as_alone(shared, unlike_requests(5), 3);
  EngineOptions each = shared;
  each.device_per_rank = each.device.kind == DeviceKind::cpu;
  expect_drawings_at_once_as_alone(each, unlike_requests(5), 2);
}

// A model that all places share has one drawing's adapters at a time; ranks with a model each have their lane's.
TEST(LanesAtOnce, HaveTheAdaptersThatEachAsksFor) {
  EngineOptions shared = options(tiny::kData / "tiny/varied");
  std::vector<GenerationRequest> requests;
  for (const char* name : {"", "ai_toolkit", "dora"}) {
    GenerationRequest& drawn = requests.emplace_back(request(48, 32, 2, 4));
    drawn.max_sequence_length = 64;
    if (*name == 0) continue;
    const std::filesystem::path file = tiny::kData / "adapters/zimage" / (std::string(name) + ".safetensors");
    drawn.adapters = {{.name = name, .file = file.string(), .sha256 = file_sha256(file), .scale = 0.8}};
  }
  expect_drawings_at_once_as_alone(shared, requests, 2);
  EngineOptions each = shared;
  each.device_per_rank = each.device.kind == DeviceKind::cpu;
  expect_drawings_at_once_as_alone(each, requests, 2);
}

}  // namespace
}  // namespace nostos
