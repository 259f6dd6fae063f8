// Tests drawings in many threads of one process, of which some are cancelled at random: the pictures that are done have
// the bits that they have alone.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <mutex>
#include <nostos.hpp>
#include <random>
#include <thread>
#include <vector>

#ifndef NOSTOS_DRAWINGS
#define NOSTOS_DRAWINGS 24
#endif

namespace {

constexpr int kThreads = 4;
constexpr uint64_t kSeeds = 3;
const std::string kModel = std::string(NOSTOS_SOURCE_DIR) + "/tests/data/tiny/diffusers_test";

nostos::Request request(uint64_t seed) {
  return {.prompt = "two red apples",
          .height = 24,
          .width = 32,
          .num_inference_steps = 4,
          .guidance_scale = 3,
          .seed = seed};
}

nostos::Pipeline pipeline(int64_t ranks) {
  return nostos::Pipeline({.model_path = kModel, .device = "cpu", .precision = "f32", .threads = 2, .num_gpus = ranks});
}

std::vector<uint8_t> pixels(const nostos::Result& result) {
  const nostos::ImageView image = result.image(0);
  return {image.rgb.begin(), image.rgb.end()};
}

/// What the threads share.
struct Shared {
  std::vector<nostos::Pipeline> pipelines;
  std::map<uint64_t, std::vector<uint8_t>> alone;  ///< pixels of each seed
  std::mutex mutex;
  int drawn = 0, cancelled = 0;
};

/// Draws once, with a cancel that comes at a random time, or from a callback, or not at all.
void draw_once(Shared& shared, std::mt19937& random) {
  const uint64_t seed = random() % kSeeds;
  nostos::Pipeline& by = shared.pipelines[random() % shared.pipelines.size()];
  const auto way = random() % 4;
  const nostos::Cancel cancel;
  nostos::Progress progress;
  const int64_t last_step = 1 + static_cast<int64_t>(random() % 4);
  if (way == 1)
    progress.on_step = [&](int64_t step, int64_t, double) {
      if (step == last_step) cancel.set();
    };
  std::thread canceller;
  if (way == 2)
    canceller = std::thread([cancel, wait = std::chrono::microseconds(random() % 20'000)] {
      std::this_thread::sleep_for(wait);
      cancel.set();
    });
  bool is_drawn = true;
  try {
    const nostos::Result result = by.generate(request(seed), progress, cancel);
    EXPECT_EQ(pixels(result), shared.alone[seed]) << "seed " << seed;
  } catch (const nostos::Cancelled&) {
    is_drawn = false;
    EXPECT_TRUE(cancel.is_set());
  }
  if (canceller.joinable()) canceller.join();
  const std::lock_guard lock(shared.mutex);
  ++(is_drawn ? shared.drawn : shared.cancelled);
}

TEST(ApiThreads, DrawAndCancel) {
  Shared shared;
  shared.pipelines.push_back(pipeline(1));
  shared.pipelines.push_back(pipeline(2));
  for (uint64_t seed = 0; seed < kSeeds; ++seed)
    shared.alone[seed] = pixels(shared.pipelines[0].generate(request(seed)));
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&shared, thread] {
      std::mt19937 random(static_cast<unsigned>(thread));
      for (int i = 0; i < NOSTOS_DRAWINGS / kThreads; ++i) draw_once(shared, random);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(shared.drawn + shared.cancelled, NOSTOS_DRAWINGS / kThreads * kThreads);
  EXPECT_GT(shared.drawn, 0);
  EXPECT_GT(shared.cancelled, 0);
}

// Pipelines that come and go beside each other share nothing.
TEST(ApiThreads, OpenAndDrawAPipelineEach) {
  std::vector<std::vector<uint8_t>> drawn(kThreads);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&drawn, thread] {
      nostos::Pipeline own = pipeline(1 + thread % 2);
      drawn[static_cast<size_t>(thread)] = pixels(own.generate(request(1)));
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<uint8_t>& one : drawn) EXPECT_EQ(one, drawn[0]);
}

}  // namespace
