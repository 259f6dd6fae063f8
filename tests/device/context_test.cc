// Tests the context: backend state, threads and cancelling.
#include "device/context.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nostos {
namespace {

struct Counter {
  explicit Counter(Context& ctx) : threads(ctx.threads()) {}
  int threads;
  int value = 0;
};

TEST(Context, KeepsOneStateAType) {
  Context ctx({}, 3), other({}, 1);
  ctx.state<Counter>().value = 5;
  EXPECT_EQ(ctx.state<Counter>().value, 5);
  EXPECT_EQ(ctx.state<Counter>().threads, 3);
  EXPECT_EQ(other.state<Counter>().value, 0);
}

TEST(Context, TakesAllThreadsByDefault) { EXPECT_GE(Context().threads(), 1); }

TEST(Context, CancelsOnceTheFlagIsSet) {
  Context ctx({}, 1);
  EXPECT_NO_THROW(ctx.throw_if_cancelled());
  std::atomic<bool> flag{false};
  ctx.watch_cancel(&flag);
  EXPECT_NO_THROW(ctx.throw_if_cancelled());
  flag = true;
  try {
    ctx.throw_if_cancelled();
    FAIL() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::cancelled);
  }
  ctx.watch_cancel(nullptr);
  EXPECT_NO_THROW(ctx.throw_if_cancelled());
}

TEST(Device, Names) {
  EXPECT_EQ(to_string(Device{}), "cpu");
  EXPECT_EQ(to_string(Device{DeviceKind::cuda, 3}), "cuda:3");
}

}  // namespace
}  // namespace nostos
