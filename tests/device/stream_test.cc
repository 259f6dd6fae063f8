// Tests streams, events, pinned memory and host waits on the CPU, whose ops are done when they return; and the build
// without CUDA.
#include "device/stream.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "device/buffer.h"
#include "device/context.h"
#include "device/graph.h"

namespace nostos {
namespace {

TEST(Stream, OnTheCpuEverythingIsDone) {
  Stream stream{Device{}};
  Event begin(Device{}, true), end(Device{}, true);
  begin.record(stream);
  stream.wait(begin);
  end.record(stream);
  EXPECT_TRUE(begin.is_done());
  EXPECT_EQ(Event::elapsed_ms(begin, end), 0);
  EXPECT_EQ(stream.handle(), nullptr);
  EXPECT_EQ(end.handle(), nullptr);
}

TEST(PinnedBuffer, OnTheCpuIsOrdinaryMemory) {
  PinnedBuffer buffer(Device{}, 100), empty(Device{}, 0);
  buffer.data()[99] = std::byte{7};
  PinnedBuffer moved = std::move(buffer);
  EXPECT_EQ(moved.data()[99], std::byte{7});
  EXPECT_EQ(moved.size_bytes(), 100u);
  EXPECT_EQ(buffer.data(), nullptr);
  EXPECT_EQ(empty.data(), nullptr);
}

TEST(Context, OnTheCpuTheHostNeverWaits) {
  Context ctx({}, 1);
  int finished = 0;
  ctx.defer([&] { ++finished; });
  EXPECT_EQ(finished, 0);
  ctx.synchronize("test");
  ctx.synchronize("test");
  EXPECT_EQ(finished, 1);
  EXPECT_EQ(ctx.host_waits(), 0);
}

TEST(Context, WorkThatWasAbandonedIsNotFinished) {
  Context ctx({}, 1);
  int finished = 0;
  ctx.defer([&] { ++finished; });
  ctx.abandon_work();
  ctx.synchronize("test");
  EXPECT_EQ(finished, 0);
}

TEST(Graph, TheCpuRecordsNothing) {
  Context ctx({}, 1);
  int enqueued = 0;
  try {
    Graph::record(ctx, [&] { ++enqueued; });
    FAIL() << "not thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
  }
  EXPECT_EQ(enqueued, 0);
  EXPECT_FALSE(Graph());
}

TEST(Context, AGpuThatIsNotThereIsADeviceError) {
  try {
    Context ctx({DeviceKind::cuda, 99});
    FAIL() << "not thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
    EXPECT_EQ(exit_code(error.kind()), 2);
  }
}

}  // namespace
}  // namespace nostos
