// Says what a GPU can do: all that this build was compiled for takes bf16; Hopper's has kernels of its own.
#include "ops/capabilities.h"

#include "ops/cuda/cudnn.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/launch.h"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;

Capabilities run(OnCuda<capabilities>, Device device) {
  const bool is_hopper = has_hopper_kernels(device);
  return {.bf16_products = true,
          .int8_products = true,
          .int8_attention = is_hopper,
          .borrowed_weights = true,
          .planned_convolutions = true,
          .packed_head_dim = is_hopper ? kHopperHeadDim : 0,
          .gated_multiple = is_hopper ? kGateRows : 0,
          .summed_multiple = is_hopper ? kSummedMultiple : 0,
          .most_rounded_channels = kMostRoundedChannels,
          .phase_multiple = kFusedChannels,
          .fused_phase_multiple = is_hopper ? kPhaseOuts : 0};
}

}  // namespace nostos::ops
