// Implements the shared GPU context and skips every test of the binary where there is no GPU.
#include "cuda/gpu.h"

#include <cstdio>

#include "base/error.h"
#include "device/cuda/runtime.h"
#include "io/environment.h"
#include "io/folder_cache.h"

namespace nostos {

std::string missing_gpu() {
  try {
    cuda::device_properties(0);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

Context& gpu() {
  // never destroyed: see Engine
  static Context& ctx = *new Context({DeviceKind::cuda, 0}, 2, FolderCache::in(cache_folder()));
  return ctx;
}

namespace {

class NeedsGpu : public testing::Environment {
 public:
  void SetUp() override {
    const std::string reason = missing_gpu();
    if (reason.empty()) return;
    std::printf("[  SKIPPED ] no GPU to test on: %s\n", reason.c_str());  // what ctest takes for a skipped test
    GTEST_SKIP();
  }
};

const testing::Environment* const kNeedsGpu = testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
}  // namespace nostos
