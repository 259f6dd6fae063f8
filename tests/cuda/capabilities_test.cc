// Tests that a build with Hopper's kernels finds them on a Hopper GPU. The tests of those kernels skip where they are
// not found, and would not say that they were lost.
#include "ops/capabilities.h"

#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

#ifdef NOSTOS_HOPPER_KERNELS
constexpr bool kIsBuilt = true;
#else
constexpr bool kIsBuilt = false;
#endif

TEST(CudaCapabilities, HoppersKernelsServeAHopperGpuAlone) {
  const bool is_served = kIsBuilt && cuda::device_properties(gpu().device().index).compute_capability == 90;
  const ops::Capabilities can = ops::capabilities(gpu().device());
  EXPECT_EQ(can.packed_head_dim, is_served ? 128 : 0) << to_string(can);
  EXPECT_EQ(can.gated_multiple > 0, is_served) << to_string(can);
  EXPECT_EQ(can.summed_multiple > 0, is_served) << to_string(can);
  EXPECT_EQ(can.fused_phase_multiple > 0, is_served) << to_string(can);
  EXPECT_TRUE(can.bf16_products && can.borrowed_weights && can.planned_convolutions) << to_string(can);
}

}  // namespace
}  // namespace nostos
