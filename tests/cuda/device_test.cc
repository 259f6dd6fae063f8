// Tests GPU memory, copies, streams, events and the counting of host waits.
#include <gtest/gtest.h>

#include "base/error.h"
#include "cuda/gpu.h"
#include "device/cuda/runtime.h"
#include "device/graph.h"
#include "ops/elementwise.h"

namespace nostos {
namespace {

TEST(GpuDevice, HasProperties) {
  const cuda::DeviceProperties& properties = cuda::device_properties(0);
  EXPECT_GE(properties.compute_capability, cuda::kOldestComputeCapability);
  EXPECT_GT(properties.multiprocessors, 0);
  EXPECT_LE(cuda::free_bytes(0), properties.total_bytes);
}

TEST(GpuBuffer, TooMuchIsOutOfMemoryAndNothingIsLost) {
  try {
    Buffer buffer(gpu().device(), size_t{1} << 50);
    FAIL() << "not thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
  }
  const Tensor x = random_tensor(DType::f32, {33}, 1);
  EXPECT_TRUE(same_bits(x, on_host(on_gpu(x))));
}

// Below, at and above the pieces of the staging ring, and more than the ring holds.
TEST(GpuTransfer, RoundTripsEverySize) {
  constexpr int64_t kPiece = int64_t{8} << 20;
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{255}, kPiece - 1, kPiece, kPiece + 1, 9 * kPiece + 3}) {
    Tensor host(Device{}, DType::u8, {bytes});
    for (int64_t i = 0; i < bytes; ++i) host.data<uint8_t>()[i] = static_cast<uint8_t>(i * 31 + i / 256);
    EXPECT_TRUE(same_bits(host, on_host(on_gpu(host)))) << bytes;
  }
}

TEST(GpuTransfer, UploadsDoNotWaitWhileStagingHasRoom) {
  Context ctx({DeviceKind::cuda, 0}, 1);
  const Tensor x = random_tensor(DType::f32, {1000}, 1);
  Tensor y(ctx.device(), DType::f32, {1000}), back(Device{}, DType::f32, {1000});
  for (int i = 0; i < 100; ++i) upload(ctx, x, y);
  download(ctx, y, back);
  EXPECT_EQ(ctx.host_waits(), 0);
  ctx.synchronize("test");
  EXPECT_EQ(ctx.host_waits(), 1);
  EXPECT_TRUE(same_bits(x, back));
}

TEST(GpuStream, EventsOrderStreamsAndMeasure) {
  Context ctx({DeviceKind::cuda, 0}, 1);
  const int64_t n = int64_t{1} << 26;
  Tensor x(ctx.device(), DType::f32, {n});
  Event begin(ctx.device(), true), end(ctx.device(), true), copied(ctx.device());
  EXPECT_TRUE(begin.is_done());
  begin.record(ctx.stream());
  for (int i = 0; i < 20; ++i) ops::add_scalar(ctx, 1.f, x);
  end.record(ctx.stream());
  ctx.copy_stream().wait(end);
  copied.record(ctx.copy_stream());
  ctx.synchronize("test");
  EXPECT_TRUE(end.is_done());
  EXPECT_GT(Event::elapsed_ms(begin, end), 0.f);
}

TEST(GpuGraph, RepeatsWhatWasRecorded) {
  Context ctx({DeviceKind::cuda, 0}, 1);
  Tensor x(ctx.device(), DType::f32, {1000}), back(Device{}, DType::f32, {1000});
  const Tensor before = random_tensor(DType::f32, {1000}, 1);
  upload(ctx, before, x);
  const Graph graph = Graph::record(ctx, [&] {
    ops::add_scalar(ctx, 1.f, x);
    ops::add_scalar(ctx, 2.f, x);
  });
  EXPECT_FALSE(Graph());
  ASSERT_TRUE(graph);
  graph.launch(ctx);
  ops::add_scalar(ctx, 0.5f, x);
  graph.launch(ctx);
  download(ctx, x, back);
  ctx.synchronize("test");
  for (int64_t i = 0; i < 1000; ++i) {
    float wanted = before.data<float>()[i];
    for (const float value : {1.f, 2.f, 0.5f, 1.f, 2.f}) wanted += value;
    ASSERT_EQ(back.data<float>()[i], wanted) << i;
  }
}

TEST(GpuGraph, AFailedRecordingLeavesTheStreamUsable) {
  Context ctx({DeviceKind::cuda, 0}, 1);
  Tensor x(ctx.device(), DType::f32, {33}), back(Device{}, DType::f32, {33});
  const Tensor before = random_tensor(DType::f32, {33}, 1);
  EXPECT_THROW(Graph::record(ctx, [] { fail(ErrorKind::cancelled, "cancelled"); }), Error);
  EXPECT_THROW(Graph::record(ctx, [&] { cuda::synchronize(ctx.stream().handle()); }), Error);
  upload(ctx, before, x);
  download(ctx, x, back);
  ctx.synchronize("test");
  EXPECT_TRUE(same_bits(before, back));
}

}  // namespace
}  // namespace nostos
