// Tests copies between host and device memory on the CPU, where they are plain copies.
#include "tensor/transfer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace nostos {
namespace {

TEST(Transfer, OnTheCpuCopiesAtOnce) {
  Context ctx({}, 2);
  for (const int64_t n : {0, 1, 1000, 5000000}) {
    Tensor host(Device{}, DType::u8, {n}), device(Device{}, DType::u8, {n}), back(Device{}, DType::u8, {n});
    for (int64_t i = 0; i < n; ++i) host.data<uint8_t>()[i] = static_cast<uint8_t>(i * 7);
    upload(ctx, host, device);
    download(ctx, device, back);
    ctx.synchronize("test");
    EXPECT_TRUE(std::equal(host.data<uint8_t>(), host.data<uint8_t>() + n, back.data<uint8_t>())) << n;
  }
}

TEST(Transfer, KeepsDtypeAndShape) {
  Context ctx({}, 1);
  Tensor a(Device{}, DType::f32, {4}), b(Device{}, DType::f32, {2, 2}), c(Device{}, DType::i32, {4});
  EXPECT_THROW(upload(ctx, a, b), Error);
  EXPECT_THROW(upload(ctx, a, c), Error);
  EXPECT_THROW(download(ctx, a, c), Error);
}

}  // namespace
}  // namespace nostos
