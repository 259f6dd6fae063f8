// Tests what CUDA's ops keep beside their operands: scratch memory and compiled plans, bounded, and there as long as a
// recording uses them.
#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "base/error.h"
#include "cuda/gpu.h"
#include "device/cuda/runtime.h"
#include "device/graph.h"
#include "device/workspace.h"
#include "ops/cuda/cudnn.h"

namespace nostos {
namespace {

constexpr Device kGpu{DeviceKind::cuda, 0};

TEST(CudaWorkspace, GivesBackWhatWasTooSmall) {
  constexpr size_t kBlock = size_t{256} << 20;
  Context ctx(kGpu, 1);
  std::optional<Workspace> workspace(ctx);
  const auto taken = [before = cuda::free_bytes(0)] { return before - cuda::free_bytes(0); };
  std::byte* const first = workspace->at_least(kBlock);
  EXPECT_EQ(workspace->at_least(100), first);
  EXPECT_NEAR(static_cast<double>(taken()), kBlock, kBlock / 8);
  workspace->at_least(kBlock + 1);  // a quarter more, beside the first until the work with that is done
  EXPECT_NEAR(static_cast<double>(taken()), 2.25 * kBlock, kBlock / 8);
  ctx.synchronize("test");
  EXPECT_NEAR(static_cast<double>(taken()), 1.25 * kBlock, kBlock / 8);
  workspace.reset();
  EXPECT_NEAR(static_cast<double>(taken()), 0, kBlock / 8);
}

TEST(CudaWorkspace, StaysAsLongAsARecordingUsesIt) {
  constexpr size_t kBlock = size_t{256} << 20;
  Context ctx(kGpu, 1);
  Workspace workspace(ctx);
  Tensor to(kGpu, DType::u8, {64});
  const auto taken = [before = cuda::free_bytes(0)] { return before - cuda::free_bytes(0); };
  const auto copy = [&] { ctx.stream().copy(to.view().bytes(), workspace.at_least(kBlock), 64); };
  copy();
  {
    const Graph recorded = Graph::record(ctx, copy);
    workspace.at_least(2 * kBlock);
    ctx.synchronize("test");
    EXPECT_NEAR(static_cast<double>(taken()), 3 * kBlock, kBlock / 8);
    recorded.launch(ctx);
    ctx.synchronize("test");
  }
  EXPECT_NEAR(static_cast<double>(taken()), 2 * kBlock, kBlock / 8);
}

TEST(CudaWorkspace, IsNotMadeInARecording) {
  Context ctx(kGpu, 1);
  Workspace workspace(ctx);
  EXPECT_THROW(Graph::record(ctx, [&] { workspace.at_least(100); }), Error);
  EXPECT_FALSE(ctx.is_recording());
  EXPECT_NE(workspace.at_least(100), nullptr);
}

/// Attention of one head of `tokens` tokens.
struct Attended {
  explicit Attended(int64_t tokens)
      : shape{.heads = 1, .kv_heads = 1, .queries = tokens, .keys = tokens, .head_dim = 64, .scale = 0.125f},
        q(on_gpu(random_tensor(DType::bf16, {1, tokens, 64}, 1))),
        k(on_gpu(random_tensor(DType::bf16, {1, tokens, 64}, 2))),
        v(on_gpu(random_tensor(DType::bf16, {1, tokens, 64}, 3))),
        out(kGpu, DType::bf16, {tokens, 64}) {}

  void run(cuda::Cudnn& cudnn) {
    cudnn.run(shape, q.view().bytes(), k.view().bytes(), v.view().bytes(), out.view().bytes(), nullptr);
  }

  cuda::FusedAttention shape;
  Tensor q, k, v, out;
};

TEST(CudaPlans, MoreThanAreKeptGiveTheSameResults) {
  cuda::Cudnn cudnn(gpu(), 2);
  Attended first(70);
  first.run(cudnn);
  const Tensor wanted = on_host(first.out);
  const Graph recorded = Graph::record(gpu(), [&] { first.run(cudnn); });
  const auto expect_the_same = [&](const auto& run) {
    const Tensor nothing = random_tensor(DType::bf16, {70, 64}, 9);
    upload(gpu(), nothing, first.out);
    run();
    EXPECT_TRUE(same_bits(wanted, on_host(first.out)));
  };
  for (const int64_t tokens : {71, 130, 200}) {
    Attended other(tokens);
    other.run(cudnn);
    gpu().synchronize("test");
    expect_the_same([&] { recorded.launch(gpu()); });
  }
  expect_the_same([&] { first.run(cudnn); });
}

// What a run has compiled is there for the recording that follows, however many shapes it has.
TEST(CudaPlans, StayUntilTheWorkIsDone) {
  cuda::Cudnn cudnn(gpu(), 1);
  std::vector<Attended> shapes;
  for (const int64_t tokens : {66, 68, 72, 74}) shapes.emplace_back(tokens);
  const auto run_all = [&] {
    for (Attended& shape : shapes) shape.run(cudnn);
  };
  run_all();
  EXPECT_NO_THROW(Graph::record(gpu(), run_all));
  gpu().synchronize("test");
  EXPECT_THROW(Graph::record(gpu(), run_all), Error) << "one is kept";
}

// Memory that was short for a moment must not fail a drawing that has room when its turn comes.
TEST(CudaPlans, AFailureAheadIsNoFailure) {
  cuda::Cudnn cudnn(gpu());
  const cuda::FusedConvolution good{.height = 8, .width = 8, .in = 8, .out = 8, .kernel = 1};
  cuda::FusedConvolution bad = good;
  bad.kernel = 9;  // of more pixels than there are
  cudnn.plan(bad);
  cudnn.plan(good);
  EXPECT_NO_THROW(cudnn.finish_plans());
  const Tensor x = on_gpu(random_tensor(DType::bf16, {8, 8, 8}, 1)),
               filter = on_gpu(random_tensor(DType::bf16, {8, 9, 9, 8}, 2)),
               bias = on_gpu(random_tensor(DType::f32, {8}, 3));
  Tensor y(kGpu, DType::bf16, {8, 8, 8});
  const auto run = [&](const cuda::FusedConvolution& shape) {
    cudnn.run(shape, x.view().bytes(), filter.view().bytes(), bias.view().bytes(), y.view().bytes());
    gpu().synchronize("test");
  };
  EXPECT_NO_THROW(run(good));
  EXPECT_THROW(run(bad), Error);
  EXPECT_NO_THROW(run(good));
}

}  // namespace
}  // namespace nostos
