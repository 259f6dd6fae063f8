// Tests that pictures drawn together are those drawn alone, bit for bit, and that requests of one drawing do not get in
// each other's way.
#include "pipeline/batch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "base/error.h"
#include "ops/linear.h"
#include "pipeline/engine.h"
#include "pipeline/tiny_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;

TEST(BatchPlan, FillsEachBatchInOrder) {
  const std::vector<int64_t> rows{3, 3, 3, 4, 9, 1};
  EXPECT_EQ(batch_plan(rows, 9), (std::vector<Batch>{{0, 3}, {3, 1}, {4, 1}, {5, 1}}));
  EXPECT_EQ(batch_plan(rows, 100), (std::vector<Batch>{{0, 6}}));
  EXPECT_EQ(batch_plan({}, 9), std::vector<Batch>{});
}

TEST(BatchPlan, HasThePassesOfAPictureBeyondTheLimitApart) {
  const std::vector<int64_t> rows{10, 3, 9, 10};
  EXPECT_EQ(batch_plan(rows, 9), (std::vector<Batch>{{0, 1, true}, {1, 1}, {2, 1}, {3, 1, true}}));
}

TEST(BatchPlan, DealsEveryPictureOnceWithinTheLimit) {
  for (int64_t limit = 1; limit <= 40; ++limit) {
    for (size_t pictures = 1; pictures <= 20; ++pictures) {
      std::vector<int64_t> rows;
      for (size_t i = 0; i < pictures; ++i) rows.push_back(static_cast<int64_t>(i * 7 % 11) + 1);
      size_t next = 0;
      for (const Batch& batch : batch_plan(rows, limit)) {
        ASSERT_EQ(batch.first, next);
        ASSERT_GE(batch.count, 1u);
        const auto first = rows.begin() + static_cast<std::ptrdiff_t>(next);
        const int64_t sum = std::accumulate(first, first + static_cast<std::ptrdiff_t>(batch.count), int64_t{0});
        EXPECT_EQ(batch.passes_apart, sum > limit);
        EXPECT_TRUE(sum <= limit || batch.count == 1);
        next += batch.count;
        EXPECT_TRUE(next == pictures || sum + rows[next] > limit) << "the next would have fitted";
      }
      EXPECT_EQ(next, pictures);
    }
  }
}

EngineOptions options(Precision precision = Precision::f32, const Parallelism& parallelism = {},
                      const tiny::Drawings& family = tiny::kZImage) {
  EngineOptions made;
  made.model = family.folder;
  made.precision = precision;
  made.parallelism = parallelism;
  return made;
}

GenerationRequest request(const std::string& prompt, uint64_t seed, double guidance) {
  GenerationRequest made;
  made.prompt = prompt;
  made.negative_prompt = "rain";
  made.height = 24;
  made.width = 40;
  made.num_inference_steps = 4;
  made.guidance_scale = guidance;
  made.seed = seed;
  return made;
}

/// Captions of three lengths and one that is cut, each kind of guidance, several pictures, a crop, shared and own
/// negative prompts.
std::vector<GenerationRequest> unlike_requests(bool all_guided, const tiny::Drawings& family = tiny::kZImage) {
  const std::string longer = "a long prompt of more than thirty-two tokens, so that it is padded to another length";
  std::vector<GenerationRequest> made{request("two red apples", 42, 3), request(longer, 7, all_guided ? 2 : 0),
                                      request("A crowded beach", 7, 5), request("two red apples", 1, 3)};
  made[0].cfg_normalization = 0.7;
  made[0].num_outputs = 2;
  made[1].height = 21;
  made[2].cfg_truncation = 0.5;
  made[2].negative_prompt = longer + " and then some more, and more, and more";
  made[3].rng = RngKind::torch_cuda;
  made[3].cfg_normalization = 1;
  made[3].cfg_truncation = 0.3;
  made[3].max_sequence_length = 6;  // shorter than its prompt, which the first draws whole
  for (GenerationRequest& each : made) each = family.fitted(std::move(each));
  return made;
}

void expect_same(const Generation& wanted, const Generation& got, const std::string& what) {
  ASSERT_EQ(wanted.pictures.size(), got.pictures.size()) << what;
  for (size_t i = 0; i < wanted.pictures.size(); ++i) {
    const Picture &a = wanted.pictures[i], &b = got.pictures[i];
    EXPECT_EQ(a.seed, b.seed) << what;
    ASSERT_EQ(a.latents.shape(), b.latents.shape()) << what;
    EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
        << what << ": latents of picture " << i << " differ";
    EXPECT_EQ(a.image, b.image) << what << ": pixels of picture " << i << " differ";
  }
}

std::vector<Precision> precisions() {
  Context ctx({}, 1);
  if (ops::has_bf16_products(ctx)) return {Precision::f32, Precision::bf16};
  return {Precision::f32};
}

/// Draws each of `requests` alone on one rank, then all of them together in several ways.
void expect_together_as_alone(const std::vector<GenerationRequest>& requests, Precision precision,
                              std::span<const Parallelism> ways, const tiny::Drawings& family = tiny::kZImage) {
  Engine one(options(precision, {}, family));
  std::vector<Generation> alone;
  for (const GenerationRequest& each : requests) alone.push_back(one.generate(each));
  for (const Parallelism& parallelism : ways) {
    Engine engine(options(precision, parallelism, family));
    const std::vector<Generation> together = engine.generate(requests);
    ASSERT_EQ(together.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      expect_same(alone[i], together[i],
                  fmt::format("request {} on {} ranks ({} halves) by {}", i, parallelism.ranks(), parallelism.cfg,
                              parallel::name(parallelism.plan)));
      EXPECT_FALSE(together[i].cancelled);
      EXPECT_EQ(together[i].cut, alone[i].cut);
    }
  }
}

class FamilyBatches : public testing::TestWithParam<tiny::Drawings> {};

INSTANTIATE_TEST_SUITE_P(Families, FamilyBatches, testing::ValuesIn(tiny::kFamilies),
                         [](const testing::TestParamInfo<tiny::Drawings>& info) { return info.param.name; });

TEST_P(FamilyBatches, UnlikeRequestsAreDrawnAsAlone) {
  const std::vector<Parallelism> ways{{},
                                      {.ulysses = 2},
                                      {.ulysses = 3},
                                      {.ulysses = 2, .plan = PlanKind::axis},
                                      {.ulysses = 3, .plan = PlanKind::axis}};
  for (const Precision precision : precisions())
    expect_together_as_alone(unlike_requests(false, GetParam()), precision, ways, GetParam());
}

TEST_P(FamilyBatches, GuidanceHalvesDrawThemAsAlone) {
  const std::vector<Parallelism> ways{
      {.cfg = 2}, {.ulysses = 2, .cfg = 2}, {.ulysses = 3, .cfg = 2, .plan = PlanKind::axis}};
  for (const Precision precision : precisions())
    expect_together_as_alone(unlike_requests(true, GetParam()), precision, ways, GetParam());
}

const std::string kLonger =
    "a prompt of which more than sixty-four tokens are made, so that a limit cuts it to as many";

// 96 rows of the one half and 128 of the other: what fits the first in one batch is two of the second.
TEST(Batches, OfGuidanceHalvesFitTheLargerHalf) {
  GenerationRequest drawn = request("two red apples", 3, 3);
  drawn.negative_prompt = kLonger;
  drawn.max_sequence_length = 64;
  drawn.num_inference_steps = 1;
  drawn.num_outputs = max_batch_rows({}) / 96;
  const Generation made = Engine(options(Precision::f32, {.cfg = 2})).generate(drawn);
  EXPECT_TRUE(made.cut.negative);
  EXPECT_EQ(made.report.step_ms.size(), 2u);
}

// The two passes of a picture have 128 rows each: on a rank of three, 86 of both, or 84 to one that rounds down.
TEST(Batches, OfRanksFitTheLargestShare) {
  GenerationRequest drawn = request(kLonger, 3, 3);
  drawn.negative_prompt = kLonger;
  drawn.max_sequence_length = 64;
  drawn.num_inference_steps = 1;
  drawn.num_outputs = max_batch_rows({}) / 86 + 1;
  ASSERT_LE(drawn.num_outputs * 84, max_batch_rows({}));
  const Generation made = Engine(options(Precision::f32, {.ulysses = 3})).generate(drawn);
  EXPECT_TRUE(made.cut.negative);
  EXPECT_EQ(made.report.step_ms.size(), 2u);
}

TEST(Batches, OneCappedPictureAmongOthersIsDrawnAsAlone) {
  std::vector<GenerationRequest> requests{request("two red apples", 1, 3), request("a dog", 2, 3)};
  requests[0].cfg_normalization = 0.7;
  expect_together_as_alone(requests, Precision::f32, std::array{Parallelism{}, Parallelism{.ulysses = 2}});
}

// A guided picture of the tiny model at 24x40 has 2 * (64 + 32) rows. The pictures of the first request are more than
// fit; the last batch holds the second's too, whose captions are longer.
TEST(Batches, MorePicturesThanFitAtOnceAreDrawnAsAlone) {
  std::vector<GenerationRequest> requests{request("two red apples", 3, 3),
                                          request("a prompt that is longer than the other one, by a few words", 8, 0)};
  requests[0].num_outputs = max_batch_rows({}) / 192 + 2;
  requests[1].num_outputs = 2;
  for (GenerationRequest& each : requests) each.num_inference_steps = 2;
  Engine engine(options());
  for (int again = 0; again < 2; ++again) {
    const std::vector<Generation> together = engine.generate(requests);
    const RunReport& report = together[0].report;
    EXPECT_LE(report.transformer_rows, max_batch_rows({}));
    EXPECT_GT(report.transformer_rows, max_batch_rows({}) - 192);
    EXPECT_EQ(report.step_ms.size(), 4u) << "two batches of two steps";
    for (size_t which = 0; which < requests.size(); ++which) {
      for (const int64_t i : {int64_t{0}, requests[which].num_outputs - 1}) {
        GenerationRequest one = requests[which];
        one.num_outputs = 1;
        one.seed += static_cast<uint64_t>(i);
        const Generation alone = Engine(options()).generate(one);
        const Picture &a = alone.pictures[0], &b = together[which].pictures[static_cast<size_t>(i)];
        EXPECT_EQ(std::memcmp(a.latents.data<float>(), b.latents.data<float>(), a.latents.size_in_bytes()), 0)
            << "picture " << i << " of request " << which;
        EXPECT_EQ(a.image, b.image);
      }
    }
  }
}

// Batches run one after the other, and so do passes apart.
TEST(Batches, ShareTheirMemory) {
  const auto bytes_together = [](std::span<const GenerationRequest> requests) {
    return static_cast<double>(Engine(options()).generate(requests).at(0).report.arena_bytes);
  };
  const auto bytes_of = [&](const GenerationRequest& drawn) { return bytes_together(std::span(&drawn, 1)); };
  GenerationRequest drawn = request("two red apples", 3, 3);
  drawn.num_inference_steps = 1;
  drawn.num_outputs = max_batch_rows({}) / 192;
  const double one_batch = bytes_of(drawn);
  drawn.num_outputs *= 2;
  EXPECT_LT(bytes_of(drawn), 1.25 * one_batch);
  drawn.num_outputs = 1;
  drawn.height = drawn.width = 128;
  const double two_passes = bytes_of(drawn);
  drawn.guidance_scale = 0;
  EXPECT_LT(two_passes, 1.25 * bytes_of(drawn));
  // 9 prompts fill a batch of the text stage.
  std::vector<GenerationRequest> prompts;
  for (int64_t i = 0; i < 27; ++i) {
    GenerationRequest& one = prompts.emplace_back(request(fmt::format("{} and so on{:>1000}", i, "."), 1, 0));
    one.height = one.width = 16;
    one.num_inference_steps = 1;
    one.max_sequence_length = 224;
  }
  EXPECT_LT(bytes_together(prompts), 1.25 * bytes_together(std::span(prompts).first(9)));
}

// On one rank the passes of so large a picture run one after the other, on three at once; captions as long as each
// other share the image before them, others do not.
TEST(Batches, PassesApartDrawTheSameAsPassesAtOnce) {
  for (const Precision precision : precisions()) {
    for (const char* negative : {"rain", "a long prompt of more than thirty-two tokens, padded to another length"}) {
      GenerationRequest large = request("two red apples", 3, 3);
      large.negative_prompt = negative;
      large.height = large.width = 128;
      large.num_inference_steps = 2;
      const Generation apart = Engine(options(precision)).generate(large);
      EXPECT_LT(apart.report.transformer_rows, max_batch_rows({}));
      EXPECT_GT(2 * apart.report.transformer_rows, max_batch_rows({}));
      Engine three(options(precision, {.ulysses = 3}));
      const Generation at_once = three.generate(large);
      EXPECT_GT(at_once.report.transformer_rows, apart.report.transformer_rows / 2);
      expect_same(apart, at_once, negative);
    }
  }
}

// Three guided pictures of 128x128 have just over the rows that are computed at once on a rank of three, and just under
// them on one whose tokens are fewer: all ranks count the same.
TEST(Batches, RanksAgreeOnTheBatchesOfPicturesThatTheirOwnRowsWouldSplitUnlike) {
  GenerationRequest three = request("two red apples", 3, 3);
  three.height = three.width = 128;
  three.num_inference_steps = 2;
  three.num_outputs = 3;
  const Generation alone = Engine(options()).generate(three);
  for (const PlanKind plan : {PlanKind::axis, PlanKind::token}) {
    EngineOptions of_three = options(Precision::f32, {.ulysses = 3, .plan = plan});
    of_three.comm_timeout_s = 20;  // ranks that disagree wait for one another
    const Generation together = Engine(of_three).generate(three);
    EXPECT_EQ(together.report.step_ms.size(), 4u) << "two batches of two steps";
    expect_same(alone, together, std::string(parallel::name(plan)));
  }
}

TEST_P(FamilyBatches, RingsDrawThemAsAlone) {
  for (const Parallelism& parallelism :
       {Parallelism{.ring = 2}, Parallelism{.ulysses = 2, .ring = 2}, Parallelism{.ring = 3, .plan = PlanKind::axis},
        Parallelism{.ulysses = 2, .ring = 2, .cfg = 2, .plan = PlanKind::axis}}) {
    const std::vector<GenerationRequest> requests = unlike_requests(true, GetParam());
    Engine engine(options(Precision::f32, parallelism, GetParam()));
    std::vector<Generation> alone;
    for (const GenerationRequest& each : requests) alone.push_back(engine.generate(each));
    const std::vector<Generation> together = engine.generate(requests);
    for (size_t i = 0; i < requests.size(); ++i)
      expect_same(alone[i], together[i], fmt::format("request {} with a ring of {}", i, parallelism.ring));
  }
}

TEST_P(FamilyBatches, ReleasedPartsDrawThemAsAlone) {
  const std::vector<GenerationRequest> requests = unlike_requests(false, GetParam());
  EngineOptions released = options(Precision::f32, {.ulysses = 2}, GetParam());
  released.memory.one_drawing = true;
  const std::vector<Generation> together = Engine(released).generate(requests);
  Engine one(options(Precision::f32, {}, GetParam()));
  for (size_t i = 0; i < requests.size(); ++i) expect_same(one.generate(requests[i]), together[i], "released");
}

TEST(Batches, EachRequestHasItsOwnProgress) {
  const std::vector<GenerationRequest> requests = unlike_requests(false);
  std::vector<int64_t> last(requests.size());
  std::vector<double> told_ms(requests.size());
  std::vector<std::vector<std::string>> stages(requests.size());
  std::vector<Progress> progress(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    progress[i].on_step = [&, i](int64_t step, int64_t steps, double step_ms) {
      EXPECT_EQ(step, ++last[i]);
      EXPECT_EQ(steps, 4 * requests[i].num_outputs);
      EXPECT_GT(step_ms, 0);
      told_ms[i] += step_ms;
    };
    progress[i].on_stage = [&, i](const char* stage) { stages[i].emplace_back(stage); };
  }
  Engine(options(Precision::f32, {.ulysses = 2})).generate(requests, progress);
  EXPECT_EQ(last, (std::vector<int64_t>{8, 4, 4, 4}));
  for (const double ms : told_ms) EXPECT_NEAR(ms / told_ms[0], 1, 1e-9) << "the pictures of a request share its time";
  for (const std::vector<std::string>& seen : stages)
    EXPECT_EQ(seen, (std::vector<std::string>{"text", "denoise", "decode"}));
}

// Nobody reads the negative prompt of a picture without guidance, whoever else draws the same text.
TEST(Batches, AnUnreadNegativePromptIsNotCut) {
  std::vector<GenerationRequest> requests{request("two red apples", 1, 0), request("two red apples", 2, 3)};
  for (GenerationRequest& each : requests) {
    each.negative_prompt = each.prompt;
    each.max_sequence_length = 6;  // shorter than the prompt
  }
  const std::vector<Generation> together = Engine(options()).generate(requests);
  EXPECT_EQ(together[0].cut, (PromptsCut{.prompt = true}));
  EXPECT_EQ(together[1].cut, (PromptsCut{.prompt = true, .negative = true}));
}

TEST(Batches, ACancelledRequestIsDroppedAndTheOthersGoOn) {
  const std::vector<GenerationRequest> requests = unlike_requests(false);
  Engine one(options());
  std::vector<Generation> alone;
  for (const GenerationRequest& each : requests) alone.push_back(one.generate(each));
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    for (const size_t dropped : {0, 2}) {
      std::atomic<bool> cancel{false};
      std::vector<Progress> progress(requests.size());
      progress[dropped].cancel = &cancel;
      int64_t steps_told = 0;
      progress[dropped].on_step = [&](int64_t step, int64_t, double) {
        steps_told = step;
        cancel = true;
      };
      const std::vector<Generation> together = engine.generate(requests, progress);
      EXPECT_EQ(steps_told, requests[dropped].num_outputs) << "it ends within a step";
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(together[i].cancelled, i == dropped);
        if (i == dropped)
          EXPECT_TRUE(together[i].pictures.empty());
        else
          expect_same(alone[i], together[i], fmt::format("request {} without {} on {} ranks", i, dropped, ranks));
      }
    }
    // What was dropped leaves no trace.
    const std::vector<Generation> again = engine.generate(requests);
    for (size_t i = 0; i < requests.size(); ++i) expect_same(alone[i], again[i], "again");
  }
}

// Also once all steps are done.
TEST(Batches, ARequestIsDroppedFromTheDecodingOn) {
  const std::vector<GenerationRequest> requests{request("two red apples", 1, 3), request("a dog", 2, 0)};
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    const std::vector<Generation> wanted = engine.generate(requests);
    std::atomic<bool> cancel{false};
    std::vector<Progress> progress(2);
    progress[0].cancel = &cancel;
    progress[1].on_stage = [&](const std::string& stage) { cancel = stage == "decode"; };
    const std::vector<Generation> together = engine.generate(requests, progress);
    EXPECT_TRUE(together[0].cancelled);
    EXPECT_FALSE(together[1].cancelled);
    expect_same(wanted[1], together[1], fmt::format("{} ranks", ranks));
  }
}

// Whatever becomes of its flag.
TEST(Batches, ACancelledRequestStaysSoAndHasNoMorePreviews) {
  const std::vector<GenerationRequest> requests{request("two red apples", 1, 3), request("a dog", 2, 0)};
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    std::atomic<bool> cancel{false};
    std::vector<Progress> progress(2);
    progress[0].cancel = &cancel;
    progress[1].on_step = [&](int64_t step, int64_t, double) { cancel = step == 1; };
    std::array<std::vector<int64_t>, 2> asked;
    for (size_t i = 0; i < 2; ++i) {
      progress[i].wants_preview = [&, i](const PictureStep& at) {
        asked[i].push_back(at.step);
        return true;
      };
      progress[i].on_preview = [](const PictureStep&, const Image&) {};
    }
    const std::vector<Generation> together = engine.generate(requests, progress);
    EXPECT_TRUE(together[0].cancelled);
    EXPECT_EQ(asked[0], std::vector<int64_t>{1}) << ranks << " ranks";
    EXPECT_EQ(asked[1], (std::vector<int64_t>{1, 2, 3})) << ranks << " ranks";
  }
}

TEST(Batches, ADrawingEndsOnceAllItsRequestsAreCancelled) {
  const std::vector<GenerationRequest> requests = unlike_requests(false);
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    std::vector<std::atomic<bool>> cancel(requests.size());
    std::vector<Progress> progress(requests.size());
    int64_t last = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      progress[i].cancel = &cancel[i];
      // One after the other, a step each.
      progress[i].on_step = [&, i](int64_t step, int64_t, double) {
        if (step >= static_cast<int64_t>(i) * requests[i].num_outputs) cancel[i] = true;
        last = std::max(last, step);
      };
    }
    try {
      engine.generate(requests, progress);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_EQ(last, 3);
    EXPECT_NO_THROW(engine.generate(requests));
  }
}

std::string failure(Engine& engine, std::span<const GenerationRequest> requests, ErrorKind kind) {
  try {
    engine.generate(requests);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Batches, AFailureNamesTheRequest) {
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    const auto expect_named = [&](const std::vector<GenerationRequest>& requests, ErrorKind kind, const char* what) {
      const std::string message = failure(engine, requests, kind);
      EXPECT_NE(message.find("request 2 of 3: "), std::string::npos) << message;
      EXPECT_NE(message.find(what), std::string::npos) << message;
    };
    const std::vector<GenerationRequest> good(3, request("two red apples", 1, 3));
    std::vector<GenerationRequest> requests = good;
    requests[1].guidance_scale = -1;
    expect_named(requests, ErrorKind::invalid_input, "guidance_scale is -1");
    requests = good;
    requests[1].width = 80;
    expect_named(requests, ErrorKind::invalid_input, "80x24");
    requests = good;
    requests[1].sigmas = {1, 0.5, 0.2, 0.1};
    expect_named(requests, ErrorKind::invalid_input, "sigmas");
    requests = good;
    requests[1].start = Latents{.file = "of_another_size",
                                .values = std::make_shared<Tensor>(Device{}, DType::f32, Shape{1, 16, 2, 2})};
    expect_named(requests, ErrorKind::invalid_input, "of_another_size: tensor 'latents' is F32 [1, 16, 2, 2]");
    requests[1].start = Latents{.file = "not_read"};
    expect_named(requests, ErrorKind::invalid_input, "not_read");
    EXPECT_EQ(engine.generate(good).size(), 3u);
  }
  Engine halves(options(Precision::f32, {.cfg = 2}));
  std::vector<GenerationRequest> requests(2, request("two red apples", 1, 3));
  requests[1].guidance_scale = 0;
  EXPECT_NE(failure(halves, requests, ErrorKind::invalid_input).find("request 2 of 2: --cfg-parallel-degree 2"),
            std::string::npos);
}

// The transformer takes a latent this large, and the VAE scales it to more than any number.
TEST(Batches, AFailureOfTheDecoderNamesTheRequest) {
  std::vector<GenerationRequest> requests(3, request("two red apples", 1, 0));
  const auto latents = std::make_shared<Tensor>(Device{}, DType::f32, Shape{1, 16, 12, 20});
  std::fill_n(latents->data<float>(), latents->shape().elements(), 0.0f);
  latents->data<float>()[0] = 1.3e38f;
  requests[1].start = Latents{.file = "", .values = latents};
  for (const int64_t ranks : {1, 3}) {
    Engine engine(options(Precision::f32, {.ulysses = ranks}));
    const std::string message = failure(engine, requests, ErrorKind::invalid_input);
    EXPECT_NE(message.find("request 2 of 3: the VAE gave"), std::string::npos) << message;
  }
}

TEST(Batches, WantARequestAndAProgressOfEach) {
  Engine engine(options());
  failure(engine, {}, ErrorKind::invalid_input);
  const std::vector<GenerationRequest> two(2, request("two red apples", 1, 3));
  EXPECT_THROW(engine.generate(two, std::vector<Progress>(3)), Error);
}

TEST(Batches, DrawsTogetherWhatSharesSizeAndLevels) {
  const ModelLimits limits;
  const auto together = [&](const auto& change) {
    GenerationRequest first = request("two red apples", 1, 3), second = request("a dog", 2, 0);
    second.num_outputs = 3;
    change(second);
    return draws_together(resolve(first, limits), resolve(second, limits));
  };
  EXPECT_TRUE(together([](GenerationRequest&) {}));
  EXPECT_TRUE(together([](GenerationRequest& r) { r.height = 32; })) << "24 is drawn at 32";
  EXPECT_FALSE(together([](GenerationRequest& r) { r.height = 33; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.width = 64; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { std::swap(r.height, r.width); })) << "as many pixels, turned";
  EXPECT_FALSE(together([](GenerationRequest& r) { r.num_inference_steps = 5; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.sigmas = {1, 0.75, 0.5, 0.25}; }));
}

TEST(Batches, DrawsTogetherWhatFollowsTheSameImageAlone) {
  const ModelLimits limits{.control = ControlSupport::loaded};
  const Control edges{.image = ReferenceImage{.sha256 = std::string(64, 'a'), .size = {64, 80}}};
  const auto together = [&](const auto& change) {
    GenerationRequest first = request("two red apples", 1, 3), second = request("a dog", 2, 0);
    first.control = second.control = edges;
    change(second);
    return draws_together(resolve(first, limits), resolve(second, limits));
  };
  EXPECT_TRUE(together([](GenerationRequest&) {}));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.control.reset(); }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.control->image->sha256 = std::string(64, 'b'); }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.control->scale = 0.5; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.control->end = 0.5; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.control->preprocessor = Preprocessor::gray; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.image_fit = ImageFit::pad; }));
  EXPECT_FALSE(together([](GenerationRequest& r) { r.height = 32; })) << "drawn alike, but fitted into another size";
}

TEST(Batches, DrawsTogetherFromTheSameReferencesAlone) {
  const ModelLimits limits{.max_reference_images = 4};
  const ReferenceImage cat{.file = "cat.png", .sha256 = std::string(64, 'a'), .size = {64, 80}};
  const ReferenceImage dog{.file = "dog.png", .sha256 = std::string(64, 'b'), .size = {64, 80}};
  ReferenceImage also_cat = cat;
  also_cat.file = "also.png";
  const auto together = [&](std::vector<ReferenceImage> a, std::vector<ReferenceImage> b) {
    GenerationRequest first = request("two red apples", 1, 3), second = request("a dog", 2, 0);
    first.images = std::move(a);
    second.images = std::move(b);
    return draws_together(resolve(first, limits), resolve(second, limits));
  };
  EXPECT_TRUE(together({cat, dog}, {also_cat, dog}));
  EXPECT_FALSE(together({cat}, {dog}));
  EXPECT_FALSE(together({cat, dog}, {dog, cat}));
  EXPECT_FALSE(together({cat}, {}));
  EXPECT_FALSE(together({cat}, {cat, cat}));
  // Callers of the library may leave hashes out: then the pixels count.
  const auto of_pixels = [](uint8_t value) {
    return ReferenceImage{.size = {64, 64},
                          .image = std::make_shared<Image>(Image{64, 64, std::vector<uint8_t>(64 * 64 * 3, value)})};
  };
  EXPECT_TRUE(together({of_pixels(1)}, {of_pixels(1)}));
  EXPECT_FALSE(together({of_pixels(1)}, {of_pixels(2)}));
  EXPECT_FALSE(together({ReferenceImage{.size = {64, 64}}}, {ReferenceImage{.size = {64, 64}}}));
}

}  // namespace
}  // namespace nostos
