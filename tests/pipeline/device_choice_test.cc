// Tests the choice of the device where there is no GPU.
#include "pipeline/device_choice.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr Device kCpu{DeviceKind::cpu, 0};

bool has_gpu() {
  try {
    return cuda::device_count() > 0;
  } catch (const Error&) {
    return false;
  }
}

Error error_of(std::string_view name, const DeviceUsers& users = {}) {
  try {
    choose_device(name, users);
  } catch (const Error& error) {
    return error;
  }
  return {ErrorKind::internal, "no error"};
}

TEST(DeviceChoice, TheCpuSuitsAnyNumberOfRanks) {
  EXPECT_EQ(choose_device("cpu", {}), kCpu);
  EXPECT_EQ(choose_device("cpu", {.ranks = 8}), kCpu);
  EXPECT_EQ(choose_device("cpu", {.ranks = 8, .are_processes = true}), kCpu);
}

TEST(DeviceChoice, AutoTakesTheGpuThatIsThere) {
  EXPECT_EQ(choose_device("auto", {}), has_gpu() ? Device(DeviceKind::cuda, 0) : kCpu);
  EXPECT_EQ(choose_device("auto", {.ranks = 2, .are_processes = true}), kCpu);
}

TEST(DeviceChoice, UnknownNamesAreRefused) {
  for (const char* name :
       {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda0", "cuda 0", "CUDA", "cuda:99999999999"}) {
    const Error error = error_of(name);
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input) << name;
    EXPECT_NE(std::string(error.what()).find("use auto, cpu, cuda or cuda:N"), std::string::npos) << error.what();
  }
}

TEST(DeviceChoice, AGpuThatIsNotThereIsRefused) {
  const Error error = error_of("cuda:4711");
  EXPECT_EQ(error.kind(), ErrorKind::device) << error.what();
  const std::string wanted = has_gpu() ? "there is no GPU 4711" : "CUDA";
  EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
}

TEST(DeviceChoice, RanksShareAGpuOnlyWhenAllowed) {
  if (!has_gpu()) GTEST_SKIP() << "no GPU here";
  for (const char* name : {"auto", "cuda", "cuda:0"}) {
    const Error error = error_of(name, {.ranks = 3});
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    const std::string message = error.what();
    EXPECT_NE(message.find("3 ranks"), std::string::npos) << message;
    EXPECT_NE(message.find("1 GPU"), std::string::npos) << message;
    EXPECT_NE(message.find("--allow-shared-gpu"), std::string::npos) << message;
    EXPECT_EQ(choose_device(name, {.ranks = 3, .may_share_gpu = true}), Device(DeviceKind::cuda, 0));
  }
  EXPECT_EQ(error_of("cuda", {.ranks = 2, .are_processes = true}).kind(), ErrorKind::invalid_input);
}

}  // namespace
}  // namespace nostos
