// Tests how CUDA's status codes become errors, without a GPU.
#include <gtest/gtest.h>

#include <string>

#include "device/buffer.h"
#include "device/context.h"
#include "device/cuda/check.h"
#include "device/cuda/runtime.h"

namespace nostos::cuda {
namespace {

TEST(Status, SaysWhoCanMendIt) {
  EXPECT_EQ(error_kind(cudaErrorMemoryAllocation), ErrorKind::out_of_memory);
  for (const cudaError_t status : {cudaErrorNoDevice, cudaErrorInsufficientDriver, cudaErrorNoKernelImageForDevice})
    EXPECT_EQ(error_kind(status), ErrorKind::device);
  for (const cudaError_t status : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorECCUncorrectable})
    EXPECT_EQ(error_kind(status), ErrorKind::device_lost);
  EXPECT_EQ(error_kind(cudaErrorInvalidValue), ErrorKind::internal);
}

TEST(Status, SaysThatTheDeviceIsLost) {
  for (const cudaError_t status : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorECCUncorrectable,
                                   cudaErrorNvlinkUncorrectable, cudaErrorIllegalInstruction}) {
    EXPECT_TRUE(is_device_lost(status));
    try {
      check_cuda(status, "the GPU failed at its work");
      FAIL() << "not thrown";
    } catch (const Error& error) {
      EXPECT_EQ(exit_code(error.kind()), 1);
      EXPECT_NE(std::string(error.what()).find("the device is lost"), std::string::npos) << error.what();
    }
  }
  for (const cudaError_t status : {cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInvalidValue, cudaErrorNoDevice})
    EXPECT_FALSE(is_device_lost(status));
}

TEST(Status, MessagesSayWhatAndWhy) {
  EXPECT_NO_THROW(check_cuda(cudaSuccess, "cannot sing"));
  try {
    check_cuda(cudaErrorInsufficientDriver, "cannot sing");
    FAIL() << "not thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device);
    const std::string text = error.what();
    for (const char* part : {"cannot sing", "cudaErrorInsufficientDriver", "driver is missing or older"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

// On a machine without a GPU: everything that needs one says so, with exit code 2.
TEST(Status, WithoutAGpuEverythingIsADeviceError) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) GTEST_SKIP() << "this machine has a GPU";
  const Device device{DeviceKind::cuda, 0};
  const auto expect_device_error = [](const auto& attempt) {
    try {
      attempt();
      FAIL() << "not thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::device) << error.what();
      EXPECT_EQ(exit_code(error.kind()), 2);
    }
  };
  expect_device_error([&] { Context ctx(device); });
  expect_device_error([&] { Buffer buffer(device, 16); });
  expect_device_error([&] { device_count(); });
}

TEST(Status, AGpuThatIsNotThereIsADeviceError) {
  try {
    Context ctx({DeviceKind::cuda, 99});
    FAIL() << "not thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device) << error.what();
  }
}

}  // namespace
}  // namespace nostos::cuda
