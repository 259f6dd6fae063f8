// Tests what a warm drawing on the GPU costs the host: one wait, no allocation, recorded steps; and that recording,
// kept memory and drawings that were given up leave no trace in a picture.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <vector>

#include "base/error.h"
#include "cuda/drawing.h"
#include "device/cuda/runtime.h"
#include "models/klein_cases.h"
#include "parallel/self_communicator.h"
#include "pipeline/draw.h"

namespace nostos::test {
namespace {

/// A model on one rank, whose context can be looked at.
class Drawer {
 public:
  explicit Drawer(KeptCaptions* captions = nullptr, const std::filesystem::path& model = model_dir("mini"))
      : parts_(ctx_, {model, DType::bf16}), rank_({ctx_, parts_, captions}, nullptr) {
    parts_.load(ctx_, {});
  }

  Generation draw(const GenerationRequest& request, const Progress& progress = {}) {
    SelfCommunicator world;
    const ResolvedRequest resolved = resolve(request, parts_.shape().limits);
    return std::move(nostos::draw(rank_, world, {{&resolved, 1}, {&progress, 1}}).made.front());
  }
  int64_t host_waits() const { return ctx_.host_waits(); }
  /// \return how many makings of captions are recorded.
  int recorded_captions() {
    int recorded = 0;
    rank_.memory.captions().for_each([&](const CaptionKey&, const Graph& graph) { recorded += bool{graph}; });
    return recorded;
  }

 private:
  Context ctx_{{DeviceKind::cuda, 0}, 2};
  ModelParts parts_;
  Rank rank_;
};

/// Steps without guidance, then steps with: both kinds are recorded.
GenerationRequest half_guided() {
  GenerationRequest made = beach(256, 192, 6, 4);
  made.cfg_truncation = 0.6;
  made.cfg_normalization = 1;
  return made;
}

TEST(CudaEngine, AWarmDrawingWaitsOnceAndAllocatesNothing) {
  Drawer drawer;
  for (const int64_t pictures : {1, 3}) {
    GenerationRequest request = half_guided();
    request.num_outputs = pictures;
    const Generation first = drawer.draw(request);
    const int64_t waits = drawer.host_waits(), allocations = cuda::allocations();
    const Generation second = drawer.draw(request);
    EXPECT_EQ(drawer.host_waits(), waits + 1) << pictures;
    EXPECT_EQ(cuda::allocations(), allocations) << pictures;
    expect_same(first, second, "again");
  }
  // What is smaller fits into the same memory.
  GenerationRequest small = half_guided();
  small.width = 128;
  drawer.draw(small);
  const int64_t allocations = cuda::allocations();
  drawer.draw(half_guided());
  drawer.draw(small);
  EXPECT_EQ(cuda::allocations(), allocations);
}

// References are prepared by the host before anything is enqueued, and their pixels are copied as noise is.
TEST(CudaEngine, AWarmEditWaitsOnceAndAllocatesNothing) {
  Drawer drawer(nullptr, source_dir() / "tests/data/klein_tiny/base");
  for (const KleinCase& edit : klein_cases(source_dir())) {
    if (edit.model.filename() != "base") continue;
    const Generation first = drawer.draw(edit.request());
    drawer.draw(edit.request());
    const int64_t waits = drawer.host_waits(), allocations = cuda::allocations();
    expect_same(first, drawer.draw(edit.request()), edit.name());
    EXPECT_EQ(drawer.host_waits(), waits + 1) << edit.name();
    EXPECT_EQ(cuda::allocations(), allocations) << edit.name();
  }
}

// Ranks that share a GPU never record their steps.
TEST(CudaEngine, RecordedStepsDrawTheSame) {
  Drawer drawer;
  SharedModel shared(model_dir("mini"), false, DType::bf16);
  const Generation unrecorded = shared.draw(half_guided(), {.ulysses = 2});
  expect_same(unrecorded, drawer.draw(half_guided()), "recorded on the way");
  expect_same(unrecorded, drawer.draw(half_guided()), "recorded before");
}

TEST(CudaEngine, ARecordingServesItsOwnKindOfDrawingAlone) {
  Drawer warm;
  const auto expect_as_fresh = [&](const GenerationRequest& request, const char* what) {
    Drawer fresh;
    expect_same(fresh.draw(request), warm.draw(request), what);
  };
  GenerationRequest request = half_guided();
  expect_as_fresh(request, "first");
  request.seed = 5;
  request.prompt = "An empty beach";
  expect_as_fresh(request, "another prompt and seed");
  request.sigmas = {1, 0.9, 0.7, 0.5, 0.4, 0.2};
  expect_as_fresh(request, "other sigmas");
  request.guidance_scale = 2.5;
  expect_as_fresh(request, "another guidance");
  request.cfg_normalization = 0.5;
  expect_as_fresh(request, "another norm");
  request.cfg_normalization = 0;
  expect_as_fresh(request, "no norm");
  request.guidance_scale = 0;
  expect_as_fresh(request, "no guidance");
  request.prompt = "A crowded beach " + std::string(200, '!') + " with very many people, umbrellas, towels and dogs";
  expect_as_fresh(request, "a longer prompt");
  request.width = 224;
  request.height = 288;
  expect_as_fresh(request, "another size");
  expect_as_fresh(half_guided(), "as at first");
}

// The first prompt of a length is encoded as it is; what is recorded then serves others, at any size.
TEST(CudaEngine, RecordedCaptionsDrawTheSame) {
  Drawer warm;
  GenerationRequest request = half_guided();
  request.negative_prompt = "gray";
  constexpr const char* kPrompts[] = {"a red house", "a big horse", "one dog here", "a red house"};
  std::vector<Generation> wanted;
  for (const char* prompt : kPrompts) {
    request.prompt = prompt;
    wanted.push_back(Drawer().draw(request));
  }
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < std::size(kPrompts); ++i) {
      request.prompt = kPrompts[i];
      expect_same(wanted[i], warm.draw(request), request.prompt);
    }
  }
  EXPECT_GE(warm.recorded_captions(), 1);
  GenerationRequest other = request;
  other.width = 128;
  expect_same(Drawer().draw(other), warm.draw(other), "another size");
}

TEST(CudaEngine, MoreLengthsOfPromptsThanAreKeptDrawTheSame) {
  Drawer drawer;
  GenerationRequest request = beach(64, 64, 1, 0);
  std::vector<Generation> wanted;
  int recorded = 0;
  constexpr size_t kLengths = RankMemory::kKeptCaptionRecordings + 4;
  // All lengths, then half of them until they are recorded, then all.
  for (const size_t lengths : {kLengths, kLengths / 2, kLengths / 2, kLengths / 2, kLengths}) {
    request.prompt = "Cats";
    for (size_t i = 0; i < lengths; ++i) {
      request.prompt += " and dogs";
      Generation drawn = drawer.draw(request);
      if (wanted.size() < kLengths)
        wanted.push_back(std::move(drawn));
      else
        expect_same(wanted[i], drawn, request.prompt);
    }
    if (lengths == kLengths / 2) recorded = drawer.recorded_captions();
  }
  EXPECT_EQ(recorded, static_cast<int>(kLengths / 2));
}

TEST(CudaEngine, KeptCaptionsDrawTheSame) {
  KeptCaptions captions(size_t{1} << 20);
  Drawer keeping(&captions), forgetful;
  GenerationRequest request = half_guided();
  request.negative_prompt = "A photograph that is blurred, too dark, or of something else than what was asked for";
  for (const int64_t kept : {0, 2, 2, 1, 1}) {
    if (kept == 1) std::swap(request.prompt, request.negative_prompt += "!");
    const Generation drawn = keeping.draw(request);
    EXPECT_EQ(drawn.report.kept_captions, kept);
    expect_same(forgetful.draw(request), drawn, request.prompt);
    request.seed += 1;
  }
  const int64_t waits = keeping.host_waits(), allocations = cuda::allocations();
  EXPECT_EQ(keeping.draw(request).report.kept_captions, 2);
  EXPECT_EQ(keeping.host_waits(), waits + 1);
  EXPECT_EQ(cuda::allocations(), allocations);
}

TEST(CudaEngine, ADrawingThatWasGivenUpLeavesNoTrace) {
  Drawer drawer;
  const Generation wanted = drawer.draw(half_guided());
  GenerationRequest three = half_guided();
  three.num_outputs = 3;
  for (const int64_t last : {1, 4, 8}) {
    std::atomic<bool> cancel{false};
    Progress progress;
    progress.cancel = &cancel;
    progress.on_step = [&](int64_t step, int64_t, double) { cancel = cancel || step == last; };
    try {
      drawer.draw(three, progress);
      FAIL() << "not cancelled after step " << last;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    expect_same(wanted, drawer.draw(half_guided()), "after a drawing that was given up");
  }
}

}  // namespace
}  // namespace nostos::test
