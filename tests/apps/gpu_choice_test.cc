// Tests what --num-gpus auto chooses, and what it says.
#include "apps/cli/gpu_choice.h"

#include <gtest/gtest.h>

namespace nostos::cli {
namespace {

constexpr scheduling::Work kSquare{.rows = 4160, .steps = 8};

TEST(GpuChoice, OneWhereThereIsNoOther) {
  EXPECT_EQ(choose_gpus(kSquare, 0).gpus, 1);
  EXPECT_NE(choose_gpus(kSquare, 0).reason.find("share the cores"), std::string::npos);
  EXPECT_EQ(choose_gpus(kSquare, 1).gpus, 1);
  EXPECT_NE(choose_gpus(kSquare, 1).reason.find("no other"), std::string::npos);
}

TEST(GpuChoice, AllForALargeImageAndOneForATinyOne) {
  const GpuChoice two = choose_gpus(kSquare, 2);
  EXPECT_EQ(two.gpus, 2);
  EXPECT_NE(two.reason.find("2 of 2 GPUs, expected to take 0.56"), std::string::npos) << two.reason;
  EXPECT_EQ(choose_gpus({.rows = 16448, .steps = 8}, 8).gpus, 8);
  EXPECT_EQ(choose_gpus({.rows = 8, .steps = 8}, 8).gpus, 1);
}

TEST(GpuChoice, NoMoreThanRanksMayBe) { EXPECT_LE(choose_gpus({.rows = 1'000'000, .steps = 8}, 100).gpus, kMaxRanks); }

TEST(GpuChoice, ARequestsWorkCountsReferencesGuidanceAndImages) {
  ResolvedRequest request;
  request.drawn_height = 1024;
  request.drawn_width = 512;
  request.is_guided = true;
  request.first_step = 2;
  request.request.num_inference_steps = 8;
  request.request.num_outputs = 3;
  request.request.max_sequence_length = 512;
  request.reference_sizes = {{.height = 256, .width = 128}};
  ModelShape shape;
  shape.patch = 2;
  shape.limits.pixels_per_latent = 8;
  shape.limits.token_multiple = 32;
  EXPECT_EQ(work_of(request, shape), (scheduling::Work{.rows = 2048 + 128 + 64, .passes = 6, .images = 3, .steps = 6}));
}

}  // namespace
}  // namespace nostos::cli
