// Implements PyTorch's GPU noise with cuRAND's own device code, in the order of PyTorch's grid, whatever grid runs it.
#include <curand_kernel.h>

#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/noise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

/// distribution_elementwise_grid_stride_kernel of ATen/native/cuda/DistributionTemplates.h with curand_normal4.
__global__ void __launch_bounds__(ops::kPhiloxBlock)
    philox_normal_kernel(uint64_t seed, uint64_t offset, int64_t elements, float* out) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  curandStatePhilox4_32_10_t state;
  curand_init(seed, static_cast<unsigned long long>(thread), offset, &state);
  for (int64_t first = thread; first < elements; first += 4 * threads) {
    const float4 normal = curand_normal4(&state);
    const float four[] = {normal.x, normal.y, normal.z, normal.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Adding the mean 0 turns -0 into +0.
      if (first + i * threads < elements) out[first + i * threads] = four[i] + 0.f;
    }
  }
}

}  // namespace

void run(OnCuda<philox_normal>, Context& ctx, uint64_t seed, View out, uint64_t offset) {
  const auto blocks = static_cast<unsigned>(ops::philox_threads(out.elements()) / ops::kPhiloxBlock);
  philox_normal_kernel<<<blocks, ops::kPhiloxBlock, 0, ctx.stream().handle()>>>(seed, offset, out.elements(),
                                                                                out.data<float>());
  check_launch("philox_normal");
}

}  // namespace nostos::ops
