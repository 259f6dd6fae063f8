// Tests the choice of devices for any number of GPUs.
#include "pipeline/device_choice.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "base/error.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr DeviceChoice kCpu{};

bool has_gpu() {
  try {
    return cuda::device_count() > 0;
  } catch (const Error&) {
    return false;
  }
}

/// A GPU that all threads of a process share, or that is this process's own.
DeviceChoice shared(int index) { return {{DeviceKind::cuda, index}, false}; }
DeviceChoice own(int index) { return {{DeviceKind::cuda, index}, true}; }

void expect_refused(std::string_view name, const DeviceUsers& users, int gpus,
                    std::initializer_list<const char*> parts) {
  try {
    choose_device(name, users, gpus);
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    for (const char* part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is not in: " << error.what();
  }
}

TEST(DeviceChoice, TheCpuSuitsAnyNumberOfRanks) {
  for (const int gpus : {0, 1, 8}) {
    EXPECT_EQ(choose_device("cpu", {}, gpus), kCpu);
    EXPECT_EQ(choose_device("cpu", {.ranks = 8}, gpus), kCpu);
    EXPECT_EQ(choose_device("cpu", {.ranks = 8, .are_processes = true}, gpus), kCpu);
  }
}

TEST(DeviceChoice, OneRankTakesTheGpuThatIsNamedOrTheFirst) {
  for (const bool are_processes : {false, true}) {
    EXPECT_EQ(choose_device("auto", {.are_processes = are_processes}, 0), kCpu);
    EXPECT_EQ(choose_device("auto", {.are_processes = are_processes}, 4), shared(0));
    EXPECT_EQ(choose_device("cuda", {.are_processes = are_processes}, 4), shared(0));
    EXPECT_EQ(choose_device("cuda:3", {.are_processes = are_processes}, 4), shared(3));
  }
}

TEST(DeviceChoice, ThreadsHaveAGpuEachWhereThereAreEnough) {
  for (const char* name : {"auto", "cuda"}) {
    for (const bool may_share : {false, true}) {
      EXPECT_EQ(choose_device(name, {.ranks = 3, .may_share_gpu = may_share}, 3), own(0));
      EXPECT_EQ(choose_device(name, {.ranks = 3, .may_share_gpu = may_share}, 8), own(0));
    }
  }
}

TEST(DeviceChoice, ThreadsShareAGpuOnlyWhenAllowed) {
  for (const char* name : {"auto", "cuda", "cuda:0"}) {
    expect_refused(name, {.ranks = 3}, 1, {"3 ranks", "1 GPU:", "--allow-shared-gpu"});
    EXPECT_EQ(choose_device(name, {.ranks = 3, .may_share_gpu = true}, 1), shared(0));
  }
  expect_refused("cuda", {.ranks = 3}, 2, {"3 ranks", "2 GPUs", "--allow-shared-gpu"});
  expect_refused("cuda:1", {.ranks = 2}, 4, {"2 ranks", "1 GPU:", "--allow-shared-gpu"});
  EXPECT_EQ(choose_device("cuda:1", {.ranks = 2, .may_share_gpu = true}, 4), shared(1));
}

TEST(DeviceChoice, SomeRanksSharingAndOthersNotIsRefused) {
  expect_refused("cuda", {.ranks = 3, .may_share_gpu = true}, 2, {"3 ranks on 2 GPUs", "--num-gpus 2", "cuda:0"});
  expect_refused("auto", {.ranks = 8, .may_share_gpu = true}, 4, {"8 ranks on 4 GPUs"});
}

TEST(DeviceChoice, AProcessTakesTheGpuOfItsPlaceOnItsHost) {
  for (const char* name : {"auto", "cuda"}) {
    // Eight processes on two hosts.
    for (const int place : {0, 1, 2, 3})
      EXPECT_EQ(choose_device(name, {.ranks = 8, .are_processes = true, .place = place, .on_host = 4}, 4), own(place));
    EXPECT_EQ(
        choose_device(name, {.ranks = 8, .are_processes = true, .place = 3, .on_host = 4, .is_shown_one = true}, 1),
        own(0));
  }
  EXPECT_EQ(choose_device("auto", {.ranks = 2, .are_processes = true, .place = 1, .on_host = 2}, 1), kCpu);
  EXPECT_EQ(choose_device("auto", {.ranks = 2, .are_processes = true, .place = 1, .on_host = 2}, 0), kCpu);
  for (const bool may_share : {false, true}) {
    const DeviceUsers two{.ranks = 2, .are_processes = true, .may_share_gpu = may_share, .place = 1, .on_host = 2};
    expect_refused("cuda", two, 1, {"2 processes", "it has 1", "--device cpu", "--allow-shared-gpu"});
    expect_refused("cuda:0", two, 4, {"--device cuda:0", "all 2 processes", "--device cuda "});
  }
}

TEST(DeviceChoice, UnknownNamesAreRefused) {
  for (const char* name :
       {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda0", "cuda 0", "CUDA", "cuda:99999999999"})
    expect_refused(name, {}, 1, {"use auto, cpu, cuda or cuda:N"});
}

// The same on this machine.

TEST(DeviceChoice, AutoTakesTheGpuThatIsThere) { EXPECT_EQ(choose_device("auto", {}), has_gpu() ? shared(0) : kCpu); }

TEST(DeviceChoice, AGpuThatIsNotThereIsRefused) {
  try {
    choose_device("cuda:4711", {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::device) << error.what();
    const std::string wanted = has_gpu() ? "there is no GPU 4711" : "CUDA";
    EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
  }
}

TEST(DeviceChoice, AnUnknownNameIsRefusedWithoutALookAtTheMachine) {
  try {
    choose_device("gpu", {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input) << error.what();
  }
}

}  // namespace
}  // namespace nostos
