// Tests the promise on ranks with a GPU each: whatever their number and plan, the same picture, recorded or not; and
// that a drawing that was given up leaves the GPUs connected anew. Without two GPUs one rank has the only one, through
// NCCL.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <span>
#include <thread>
#include <vector>

#include "base/error.h"
#include "cuda/drawing.h"
#include "device/cuda/runtime.h"
#include "io/environment.h"
#include "parallel/nccl_link.h"
#include "parallel/peer_memory.h"
#include "parallel/thread_communicator.h"
#include "pipeline/engine.h"

namespace nostos::test {
namespace {

constexpr int64_t kMostRanks = 8;

EngineOptions on_gpus(const Parallelism& parallelism, bool one_drawing = false) {
  EngineOptions options;
  options.cache_folder = cache_folder();
  options.model = model_dir("mini");
  options.device = {DeviceKind::cuda, 0};
  options.device_per_rank = true;
  options.precision = Precision::bf16;
  options.parallelism = parallelism;
  if (one_drawing) options.memory = {.mode = MemoryMode::offload, .one_drawing = true};  // or all would stay: it fits
  return options;
}

Generation draw_on_one(const GenerationRequest& request) {
  EngineOptions options = on_gpus({});
  options.device_per_rank = false;
  return Engine(options).generate(request);
}

/// Guided and unguided steps, and a picture of several heights of rows a rank.
GenerationRequest half_guided(int64_t height = 208, int64_t width = 336) {
  GenerationRequest made = beach(height, width, 6, 4);
  made.cfg_truncation = 0.6;
  made.cfg_normalization = 1;
  return made;
}

class CudaGpus : public testing::Test {
 protected:
  void SetUp() override {
    if (!built_with_nccl()) GTEST_SKIP() << "this build has no NCCL";
  }
  static int64_t gpus() { return std::min<int64_t>(cuda::device_count(), kMostRanks); }
};

TEST_F(CudaGpus, DrawTheSameOnAnyNumberAndAgain) {
  const std::vector<std::pair<int64_t, int64_t>> sizes{
      {720, 720}, {720, 1280}, {1280, 720}, {1024, 1024}, {2048, 2048}};
  std::vector<Generation> wanted;
  for (const auto& [height, width] : sizes) wanted.push_back(draw_on_one(beach(height, width, 2, 4)));
  for (int64_t ranks = 1; ranks <= gpus(); ++ranks) {
    for (const parallel::PlanKind plan : {parallel::PlanKind::token, parallel::PlanKind::axis}) {
      Engine engine(on_gpus({.ulysses = ranks, .plan = plan}));
      for (size_t i = 0; i < sizes.size(); ++i) {
        const auto& [height, width] = sizes[i];
        expect_same(wanted[i], engine.generate(beach(height, width, 2, 4)),
                    fmt::format("{}x{} on {} GPUs by {}", height, width, ranks, parallel::name(plan)));
      }
    }
  }
}

TEST_F(CudaGpus, RecordedStepsReleasedPartsAndHalvesDrawTheSame) {
  const Generation wanted = draw_on_one(half_guided());
  for (int64_t ranks = 1; ranks <= gpus(); ++ranks) {
    Engine engine(on_gpus({.ulysses = ranks}));
    for (const char* run : {"recorded on the way", "recorded before"})
      expect_same(wanted, engine.generate(half_guided()), fmt::format("{} GPUs, {}", ranks, run));
    expect_same(wanted, Engine(on_gpus({.ulysses = ranks}, true)).generate(half_guided()),
                fmt::format("{} GPUs, parts released", ranks));
    if (2 * ranks > gpus()) continue;
    expect_same(wanted, Engine(on_gpus({.ulysses = ranks, .cfg = 2})).generate(half_guided()),
                fmt::format("halves of guidance on {} GPUs each", ranks));
  }
}

// Each GPU reads the table, and has blocks streamed, from memory of its own.
TEST_F(CudaGpus, WeightsInHostMemoryDrawTheSame) {
  const Generation wanted = draw_on_one(half_guided());
  for (int64_t ranks = 1; ranks <= std::min<int64_t>(gpus(), 2); ++ranks) {
    EngineOptions options = on_gpus({.ulysses = ranks});
    Generation drawn;
    for (size_t refused = 0, enough = size_t{8} << 30; enough - refused > size_t{1} << 20;) {
      const size_t limit = refused + (enough - refused) / 2;
      options.memory.limit_bytes = limit;
      try {
        drawn = Engine(options).generate(half_guided());
        enough = limit;
      } catch (const Error& error) {
        ASSERT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
        refused = limit;
      }
    }
    expect_same(wanted, drawn, fmt::format("{} GPUs", ranks));
    EXPECT_GT(drawn.report.streamed_bytes, 0u) << ranks;
  }
}

// Of the full size, whose heads kernels can write to the peers where they are attended to.
TEST_F(CudaGpus, KernelsThatWriteToThePeersDrawTheSame) {
  if (gpus() < 2) GTEST_SKIP() << "one GPU has no peers";
  run_thread_ranks(static_cast<int>(gpus()), [](Communicator& host) {
    EXPECT_NE(open_peer_memory(host, {DeviceKind::cuda, host.rank()}), nullptr)
        << "NCCL would carry what is drawn here";
  });
  const auto full_size = [](EngineOptions options) {
    options.model = model_dir("z-image-turbo");
    options.synthetic = true;
    return options;
  };
  const std::vector<GenerationRequest> requests{beach(256, 256, 3, 4), beach(720, 1280, 3, 0)};
  std::vector<Generation> wanted;
  {
    EngineOptions one = full_size(on_gpus({}));
    one.device_per_rank = false;
    Engine engine(one);
    for (const GenerationRequest& request : requests) wanted.push_back(engine.generate(request));
  }
  for (const Parallelism& parallelism : {Parallelism{.ulysses = 2, .plan = parallel::PlanKind::token},
                                         Parallelism{.ulysses = gpus(), .plan = parallel::PlanKind::axis}}) {
    Engine engine(full_size(on_gpus(parallelism)));
    for (size_t i = 0; i < requests.size(); ++i)
      for (const char* run : {"recorded on the way", "recorded before"})
        expect_same(wanted[i], engine.generate(requests[i]),
                    fmt::format("request {} on {} GPUs by {}, {}", i, parallelism.ulysses,
                                parallel::name(parallelism.plan), run));
  }
}

TEST_F(CudaGpus, AWarmDrawingAllocatesNothing) {
  Engine engine(on_gpus({.ulysses = gpus()}));
  engine.generate(half_guided());
  const int64_t allocations = cuda::allocations();
  engine.generate(half_guided());
  EXPECT_EQ(cuda::allocations(), allocations);
}

TEST_F(CudaGpus, ADrawingThatWasGivenUpLeavesNoTrace) {
  const Generation wanted = draw_on_one(half_guided());
  Engine engine(on_gpus({.ulysses = gpus()}));
  for (const int64_t last : {1, 3, 6}) {
    std::atomic<bool> cancel{false};
    Progress progress;
    progress.cancel = &cancel;
    progress.on_step = [&](int64_t step, int64_t, double) { cancel = step == last; };
    try {
      engine.generate(half_guided(), progress);
      FAIL() << "not cancelled after step " << last;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    expect_same(wanted, engine.generate(half_guided()), fmt::format("given up after step {}", last));
  }
}

// A longer caption of as many padded tokens needs more of rank 0's memory alone, which then forgets what it had
// recorded.
TEST_F(CudaGpus, LongerCaptionsOfTheSamePaddingDrawTheSame) {
  Engine engine(on_gpus({.ulysses = gpus()}));
  for (const char* prompt : {"A", "A", "A crowded beach, with", "A crowded beach, with", "A"}) {
    GenerationRequest request = beach(64, 64, 3, 0);
    request.prompt = prompt;
    expect_same(draw_on_one(request), engine.generate(request), prompt);
  }
}

EngineOptions lanes_on(int64_t ranks) {
  EngineOptions options = on_gpus({.ulysses = ranks});
  options.lanes = true;
  return options;
}

/// Changes the lane at every step, from one of `lanes` to the next.
LaneChange turns(std::span<const Lane> lanes) {
  return {.next = [lanes, turn = size_t{0}](const LaneStep&) mutable { return lanes[++turn % lanes.size()]; },
          .changed = {}};
}

TEST_F(CudaGpus, LanesThatChangeAtEveryStepDrawTheSame) {
  if (gpus() < 2) GTEST_SKIP() << "a lane changes among two GPUs at least";
  const Generation wanted = draw_on_one(half_guided());
  const int last = static_cast<int>(gpus()) - 1;
  Engine engine(lanes_on(gpus()));
  Lane all;
  for (int place = 0; place <= last; ++place) all.places.push_back(place);
  const std::vector<Lane> lanes{all, {{last}}, {{last, 0}, true}, {{0}}, {{0, last}}};
  const GenerationRequest request = half_guided();
  for (const char* run : {"recorded on the way", "recorded before", "recorded before, again"})
    expect_same(wanted, engine.draw({&request, 1}, {}, lanes.front(), turns(lanes)).front(), run);
}

TEST_F(CudaGpus, LanesAtOnceDrawTheSame) {
  if (gpus() < 2) GTEST_SKIP() << "lanes at once have a GPU each at least";
  const std::array<GenerationRequest, 2> requests{half_guided(), half_guided(336, 208)};
  const std::array<Generation, 2> wanted{draw_on_one(requests[0]), draw_on_one(requests[1])};
  Engine engine(lanes_on(2));
  for (int round = 0; round < 3; ++round) {
    std::array<Generation, 2> made;
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 2; ++i)
      threads.emplace_back([&, i] {
        const Lane own{{static_cast<int>((i + static_cast<size_t>(round)) % 2)}};
        made[i] = std::move(engine.draw({&requests[i], 1}, {}, own).front());
      });
    for (std::thread& thread : threads) thread.join();
    for (size_t i = 0; i < 2; ++i) expect_same(wanted[i], made[i], fmt::format("round {}, drawing {}", round, i));
    expect_same(wanted[0], engine.draw({&requests[0], 1}, {}, {{0, 1}}).front(), "both for one between them");
  }
}

TEST_F(CudaGpus, AChangeOfLanesTakesLittle) {
  if (gpus() < 2) GTEST_SKIP() << "a lane changes among two GPUs at least";
  EngineOptions options = lanes_on(2);
  options.model = model_dir("z-image-turbo");
  options.synthetic = true;
  Engine engine(options);
  const std::vector<Lane> lanes{{{0, 1}}, {{0}}, {{0, 1}}, {{1}}};
  const GenerationRequest request = beach(1024, 1024, 8, 0);
  std::vector<double> changes;
  for (int round = 0; round < 4; ++round) {
    const Generation made = std::move(engine.draw({&request, 1}, {}, lanes.front(), turns(lanes)).front());
    for (const LaneReport& lane : made.report.lanes) {
      if (lane.steps_done == 0) continue;
      if (round > 1) changes.push_back(lane.change_ms);
      fmt::print("round {}: to {} GPUs after step {} in {:.2f} ms\n", round, lane.lane.places.size(), lane.steps_done,
                 lane.change_ms);
    }
  }
  std::ranges::sort(changes);
  ASSERT_FALSE(changes.empty());
  EXPECT_LT(changes[changes.size() / 2], 10);
}

}  // namespace
}  // namespace nostos::test
