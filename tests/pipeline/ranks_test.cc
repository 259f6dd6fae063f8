// Tests the promise: whatever the number of ranks, the plan and the backend of the communicator, the same picture.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ops/linear.h"
#include "parallel/self_communicator.h"
#include "parallel/thread_communicator.h"
#include "pipeline/beach_request.h"
#include "pipeline/engine.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;

const std::filesystem::path kMini = std::filesystem::path(NOSTOS_SOURCE_DIR) / "models/mini";

const std::filesystem::path kTiny = tiny::kZImage.folder;

EngineOptions options(const std::filesystem::path& model, Precision precision, const Parallelism& parallelism) {
  EngineOptions made;
  made.model = model;
  made.precision = precision;
  made.parallelism = parallelism;
  return made;
}

GenerationRequest request(int64_t height, int64_t width, double guidance, int64_t steps = 2) {
  return beach_request(height, width, guidance, steps);
}

Generation draw(const EngineOptions& options, const GenerationRequest& request) {
  return Engine(options).generate(request);
}

void expect_same(const Generation& wanted, const Generation& got, const std::string& what) {
  ASSERT_EQ(wanted.pictures.size(), got.pictures.size()) << what;
  for (size_t i = 0; i < wanted.pictures.size(); ++i) {
    const Picture &a = wanted.pictures[i], &b = got.pictures[i];
    ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
    EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
        << what << ": latents differ";
    EXPECT_EQ(a.image, b.image) << what << ": pixels differ";
  }
}

double psnr_db(const Image& a, const Image& b) {
  double squares = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) squares += std::pow(static_cast<double>(a.rgb[i]) - b.rgb[i], 2);
  return 10 * std::log10(255.0 * 255.0 * static_cast<double>(a.rgb.size()) / squares);
}

std::vector<Precision> precisions() {
  Context ctx({}, 1);
  if (ops::has_bf16_products(ctx)) return {Precision::f32, Precision::bf16};
  return {Precision::f32};
}

struct Size {
  int64_t height, width;
};

/// What every family must hold.
class FamilyRanks : public testing::TestWithParam<tiny::Drawings> {
 protected:
  EngineOptions options(Precision precision, const Parallelism& parallelism) const {
    return nostos::options(GetParam().folder, precision, parallelism);
  }
  GenerationRequest request(int64_t height, int64_t width, double guidance, int64_t steps = 2) const {
    return GetParam().fitted(nostos::request(height, width, guidance, steps));
  }
};

INSTANTIATE_TEST_SUITE_P(Families, FamilyRanks, testing::ValuesIn(tiny::kFamilies),
                         [](const testing::TestParamInfo<tiny::Drawings>& info) { return info.param.name; });

// 60 tokens of 2 x 2 latents: pads, a caption of an odd length, and at 8 ranks fewer rows of tokens than ranks.
TEST_P(FamilyRanks, EveryNumberOfRanksDrawsTheSamePicture) {
  for (const Precision precision : precisions()) {
    for (const Size& size : {Size{24, 40}, Size{4, 4}, Size{4, 64}, Size{60, 12}}) {
      for (const double guidance : {0.0, 3.0}) {
        GenerationRequest drawn = request(size.height, size.width, guidance);
        drawn.cfg_normalization = guidance > 0 && GetParam().has_cap ? 1 : 0;
        const Generation one = draw(options(precision, {}), drawn);
        for (const int64_t ranks : {2, 3, 5, 8, 30}) {
          if (GetParam().references > 0 && ranks != 3 && ranks != 8) continue;  // to spare time
          for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
            expect_same(one, draw(options(precision, {.ulysses = ranks, .plan = plan}), drawn),
                        fmt::format("{}x{} guidance {} on {} ranks by {}", size.height, size.width, guidance, ranks,
                                    parallel::name(plan)));
          }
        }
      }
    }
  }
}

// The real model's 30 heads, whole on every degree: 30 on 4 are 8, 8, 7, 7. Random weights in small blocks.
TEST(Ranks, ThirtyHeadsDrawTheSamePictureAtEveryDegree) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "thirty_heads";
  for (const char* part : {"transformer", "text_encoder", "vae", "scheduler"}) {
    std::filesystem::create_directories(folder / part);
    const char* file = std::string_view(part) == "scheduler" ? "scheduler_config.json" : "config.json";
    std::filesystem::copy_file(kTiny / part / file, folder / part / file,
                               std::filesystem::copy_options::overwrite_existing);
  }
  std::filesystem::copy_file(kTiny / "model_index.json", folder / "model_index.json",
                             std::filesystem::copy_options::overwrite_existing);
  nlohmann::json config = nlohmann::json::parse(std::ifstream(folder / "transformer/config.json"));
  config["n_heads"] = config["n_kv_heads"] = 30;
  config["dim"] = 240;
  config["axes_dims"] = {4, 2, 2};
  std::ofstream(folder / "transformer/config.json") << config;
  for (const Precision precision : precisions()) {
    const auto options_of = [&](const Parallelism& parallelism) {
      EngineOptions made = options(folder, precision, parallelism);
      made.synthetic = true;
      return made;
    };
    const Generation one = draw(options_of({}), request(28, 44, 2));
    for (int64_t ranks = 2; ranks <= 31; ++ranks) {
      const PlanKind plan = ranks % 2 == 0 ? PlanKind::token : PlanKind::axis;
      expect_same(one, draw(options_of({.ulysses = ranks, .plan = plan}), request(28, 44, 2)),
                  fmt::format("{} ranks", ranks));
    }
  }
  std::filesystem::remove_all(folder);
}

// Each half of guidance on its own ranks is exact, with every cap and truncation.
TEST_P(FamilyRanks, GuidanceHalvesAreExact) {
  for (const Precision precision : precisions()) {
    for (const double cap : {0.0, 0.7}) {
      GenerationRequest drawn = request(24, 40, 4, 4);
      drawn.cfg_normalization = GetParam().has_cap ? cap : 0;
      drawn.cfg_truncation = 0.5;  // the last steps are not guided
      const Generation one = draw(options(precision, {}), drawn);
      for (const int64_t ulysses : {1, 2, 3}) {
        const Generation halves = draw(options(precision, {.ulysses = ulysses, .cfg = 2}), drawn);
        expect_same(one, halves, fmt::format("two halves of {} ranks, cap {}", ulysses, cap));
        // Both halves count, and each refines the image, which one rank may do once for both.
        EXPECT_GE(halves.report.transformer_flop, one.report.transformer_flop);
      }
    }
  }
}

TEST_P(FamilyRanks, GuidanceHalvesWantGuidance) {
  try {
    draw(options(Precision::f32, {.cfg = 2}), request(24, 40, 0));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    EXPECT_NE(std::string(error.what()).find("--cfg-parallel-degree 2"), std::string::npos) << error.what();
  }
}

// Measured: 87 dB and more.
TEST(Ranks, RingsDifferByRoundingAlone) {
  struct Degrees {
    int64_t ulysses, ring;
  };
  for (const Size& size : {Size{208, 336}, Size{112, 272}}) {
    const GenerationRequest drawn = request(size.height, size.width, 4);
    const Generation one = draw(options(kMini, Precision::f32, {}), drawn);
    for (const Degrees& degrees : {Degrees{1, 2}, Degrees{2, 2}, Degrees{1, 3}, Degrees{3, 2}}) {
      for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
        const Generation ring = draw(
            options(kMini, Precision::f32, {.ulysses = degrees.ulysses, .ring = degrees.ring, .plan = plan}), drawn);
        const double psnr = psnr_db(one.pictures[0].image, ring.pictures[0].image);
        EXPECT_GE(psnr, 60) << degrees.ulysses << " x " << degrees.ring;
        RecordProperty(fmt::format("psnr_{}x{}_{}_{}", size.height, size.width, degrees.ulysses, degrees.ring),
                       fmt::format("{:.1f}", psnr));
      }
    }
  }
}

TEST_P(FamilyRanks, ReleasedPartsSeveralOutputsAndGivenThreadsDoNotChangeThePicture) {
  GenerationRequest drawn = request(24, 40, 3);
  drawn.num_outputs = 3;
  const Generation one = draw(options(Precision::f32, {}), drawn);
  EngineOptions three = options(Precision::f32, {.ulysses = 3});
  three.memory.one_drawing = true;
  three.threads = 7;
  expect_same(one, draw(three, drawn), "three ranks");
  Engine again(options(Precision::f32, {.ulysses = 2}));
  expect_same(one, again.generate(drawn), "two ranks");
  expect_same(one, again.generate(drawn), "two ranks once more");
}

TEST_P(FamilyRanks, ADeviceAndACopyOfTheModelForEachDoNotChangeThePicture) {
  GenerationRequest drawn = request(24, 40, 3);
  drawn.num_outputs = 2;
  const Generation one = draw(options(Precision::f32, {}), drawn);
  for (const bool release : {false, true}) {
    EngineOptions three = options(Precision::f32, {.ulysses = 3});
    three.device_per_rank = true;
    three.memory.one_drawing = release;
    Engine engine(three);
    for (int64_t run = 0; run < 2; ++run) {
      expect_same(one, engine.generate(drawn), fmt::format("run {} with parts {}", run, release ? "released" : "kept"));
    }
  }
}

TEST(Ranks, ARankThatCannotLoadTheModelIsTheErrorOfAll) {
  EngineOptions missing = options("/nonexistent/model", Precision::f32, {.ulysses = 3});
  missing.device_per_rank = true;
  try {
    Engine{missing};
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model) << error.what();
  }
}

// 24 x 40 pixels are 60 tokens, 64 with pads; the tiny model has 2 heads.
TEST(Ranks, EveryRankReportsItsShare) {
  const Generation made = draw(options(kTiny, Precision::f32, {.ulysses = 3}), request(24, 40, 3));
  ASSERT_EQ(made.report.ranks.size(), 3u);
  const std::vector<int64_t> tokens{22, 21, 17}, heads{1, 1, 0};
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(made.report.ranks[rank].rank, static_cast<int64_t>(rank));
    EXPECT_EQ(made.report.ranks[rank].image_tokens, tokens[rank]);
    EXPECT_EQ(made.report.ranks[rank].heads, heads[rank]);
    EXPECT_GT(made.report.ranks[rank].bytes_sent, 0u);
  }
  const Generation alone = draw(options(kTiny, Precision::f32, {}), request(24, 40, 3));
  ASSERT_EQ(alone.report.ranks.size(), 1u);
  EXPECT_EQ(alone.report.ranks[0].image_tokens, 60);
  EXPECT_EQ(alone.report.ranks[0].bytes_sent, 0u);
}

// Two groups of two: the heads are dealt within each.
TEST(Ranks, EveryRankOfARingReportsItsShare) {
  const Generation made = draw(options(kTiny, Precision::f32, {.ulysses = 2, .ring = 2, .cfg = 2}), request(24, 40, 3));
  ASSERT_EQ(made.report.ranks.size(), 8u);
  const std::vector<int64_t> tokens{16, 16, 16, 12};
  for (size_t rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(made.report.ranks[rank].rank, static_cast<int64_t>(rank));
    EXPECT_EQ(made.report.ranks[rank].image_tokens, tokens[rank % 4]) << rank;
    EXPECT_EQ(made.report.ranks[rank].heads, 1) << rank;
    EXPECT_GT(made.report.ranks[rank].bytes_sent, 0u);
  }
}

TEST_P(FamilyRanks, CancellingEndsAllRanks) {
  std::atomic<bool> cancel = false;
  Progress progress;
  progress.cancel = &cancel;
  progress.on_step = [&](int64_t, int64_t, double) { cancel = true; };
  Engine engine(options(Precision::f32, {.ulysses = 3}));
  try {
    engine.generate(request(24, 40, 3, 50), progress);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
  }
  cancel = false;
  progress.on_step = nullptr;
  EXPECT_NO_THROW(engine.generate(request(24, 40, 3), progress));
}

// What a rank throws ends the others, which wait for it in the next layer, and comes out of generate().
TEST_P(FamilyRanks, AThrowingRankEndsTheOthers) {
  Progress progress;
  progress.on_step = [](int64_t step, int64_t, double) {
    if (step == 2) throw std::runtime_error("the user's own error");
  };
  Engine engine(options(Precision::f32, {.ulysses = 3}));
  try {
    engine.generate(request(24, 40, 3, 50), progress);
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "the user's own error");
  }
  EXPECT_NO_THROW(engine.generate(request(24, 40, 3)));
}

TEST(Ranks, ProcessesMustBeAsManyAsTheRanks) {
  SelfCommunicator alone;
  EXPECT_THROW(Engine(options(kTiny, Precision::f32, {.ulysses = 2}), &alone), Error);
}

// As processes do: each with an engine of its own, the same request, pictures on rank 0 alone.
TEST_P(FamilyRanks, EnginesOfSeveralProcessesAgreeWithThreads) {
  const GenerationRequest drawn = request(24, 40, 3);
  const Generation one = draw(options(Precision::f32, {}), drawn);
  for (const bool release : {false, true}) {
    run_thread_ranks(3, [&](Communicator& world) {
      EngineOptions of_process = options(Precision::f32, {.ulysses = 3});
      of_process.memory.one_drawing = release;
      of_process.threads = 1;
      Engine engine(of_process, &world);
      GenerationRequest given = drawn;
      if (world.rank() != 0) {
        for (ReferenceImage& image : given.images) {
          image.image.reset();  // rank 0 alone reads it
          image.sha256.clear();
        }
      }
      const Generation made = engine.generate(given);
      if (world.rank() == 0)
        expect_same(one, made, "rank 0");
      else
        EXPECT_TRUE(made.pictures.empty());
      // Bytes are those of one drawing, not of all that the communicator has seen.
      const Generation again = engine.generate(given);
      for (size_t rank = 0; rank < 3; ++rank)
        EXPECT_EQ(again.report.ranks[rank].bytes_sent, made.report.ranks[rank].bytes_sent);
    });
  }
}

}  // namespace
}  // namespace nostos
