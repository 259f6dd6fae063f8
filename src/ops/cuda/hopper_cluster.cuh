// Owns the Hopper instructions beyond hopper_instructions.cuh that a cluster's kernel of a wide head is written with:
// clusters of blocks, copies to all of one, products of 128 columns.
#pragma once

#include "ops/cuda/hopper_instructions.cuh"

namespace nostos::cuda::hopper {

/// \return which block of its cluster this is.
__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Waits for all threads of the cluster.
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// Arrives at the same barrier of block `rank` of the cluster.
__device__ __forceinline__ void arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

/// load_tile() to the same place, and with the same barrier, of every block of the cluster that `blocks` has a bit of.
__device__ __forceinline__ void load_tile_to_all(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column,
                                                 int row, int plane, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(plane), "h"(blocks)
      : "memory");
}

/// Keeps the compiler from moving accesses to a product's registers over this place.
__device__ __forceinline__ void hold(float (&registers)[64]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

/// d [64, 128] (+)= a [64, 16] b [16, 128]: a a tile along k, b across.
__device__ __forceinline__ void product_across_k(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_63
      "}, %64, %65, accumulates, 1, 1, 0, 1;\n}\n"
      : NOSTOS_64_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

}  // namespace nostos::cuda::hopper
