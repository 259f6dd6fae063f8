// Owns the Hopper instructions that kernels are written with: barriers of shared memory, the copy engine, products of
// warpgroups (128 threads). Addresses are those of shared memory. Source: PTX ISA 8.5, "Asynchronous Warpgroup Level
// Matrix Instructions" and "Data Movement and Conversion".
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "ops/cuda/device_math.cuh"

namespace nostos::cuda::hopper {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// \return this thread's warpgroup in a form that the compiler knows to be the same in all of a warp.
__device__ inline int warpgroup_index() { return __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 128, 0); }

/// Makes a barrier whose phase ends when `arrivals` threads have arrived and all bytes announced have come.
__device__ inline void make_barrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
/// Shows new barriers to the copy engine; before __syncthreads().
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives and announces bytes that copies will bring.
__device__ inline void arrive_expecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of that parity, 0 first. The parity tells phases apart only while every thread that
/// waits is at most one phase away from the barrier: a kernel must not let a thread fall two behind, or come too early.
/// Products keep a warpgroup's four warps together; where there are none, one thread waits and the others wait for it.
__device__ inline void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra end;\nbra "
      "again;\nend:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// Copies the tile at (column, row, plane) to shared memory; `barrier` counts its bytes.
__device__ inline void load_tile(uint32_t to, const CUtensorMap& map, uint32_t barrier, int column, int row,
                                 int plane = 0) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(plane)
      : "memory");
}
/// Copies a tile from shared memory; store_begun() ends a group of such copies.
__device__ inline void store_tile(const CUtensorMap& map, uint32_t from, int column, int row, int plane = 0) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map), "r"(from),
               "r"(column), "r"(row), "r"(plane)
               : "memory");
}
/// \return 16 bytes of shared memory.
__device__ inline uint4 load_word(uint32_t from) {
  uint4 word;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
               : "r"(from)
               : "memory");
  return word;
}
__device__ inline void store_begun() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most kGroups of this thread's groups still read shared memory.
template <int kGroups>
__device__ inline void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kGroups) : "memory");
}
__device__ inline void wait_stores_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
/// Makes this thread's writes to shared memory visible to the copy engine.
__device__ inline void publish_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Waits for the `threads` threads that use hardware barrier `id` (1 to 15).
__device__ inline void wait_together(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Lets the calling warpgroup have more, or fewer, registers a thread than the kernel was launched with.
template <int kRegisters>
__device__ inline void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Writes four 8 x 8 matrices of bf16 pairs as products leave them; lane l gives the address of row l % 8 of matrix
/// l / 8.
__device__ inline void store_matrices(uint32_t address, const uint32_t (&pairs)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(pairs[0]),
               "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
               : "memory");
}

/// A tile as products read it: rows of 64 bf16 along k, swizzled over 128 bytes by their address. 16 more of k are
/// kStepK further.
__device__ inline uint64_t tile_along_k(uint32_t address) {
  return uint64_t{(address & 0x3FFFFu) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
inline constexpr uint64_t kStepK = 32 >> 4;
/// A tile whose rows of 64 bf16 lie across k, `block_bytes` from one 64 to the next. 16 more of k are kStepAcrossK
/// further.
__device__ inline uint64_t tile_across_k(uint32_t address, uint32_t block_bytes) {
  return uint64_t{(address & 0x3FFFFu) >> 4} | uint64_t{block_bytes >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
inline constexpr uint64_t kStepAcrossK = 2048 >> 4;

/// A warpgroup's products are begun in order; between begin_products() and wait_products() their registers belong to
/// the tensor cores.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kGroups groups, each ended by end_products(), are under way.
template <int kGroups>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// The registers of a product's result: for the assembler as operands, and as the floats of d that they are.
#define NOSTOS_OPERANDS_0_TO_15 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NOSTOS_OPERANDS_0_TO_31 \
  NOSTOS_OPERANDS_0_TO_15       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NOSTOS_OPERANDS_0_TO_39                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39"
#define NOSTOS_OPERANDS_0_TO_63                                                                                      \
  NOSTOS_OPERANDS_0_TO_39                                                                                            \
  ", %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, %63"
#define NOSTOS_OPERANDS_0_TO_95                                                                                      \
  NOSTOS_OPERANDS_0_TO_63                                                                                            \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
  "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NOSTOS_8_FLOATS(d, i)                                                                                 \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define NOSTOS_16_FLOATS(d) NOSTOS_8_FLOATS(d, 0), NOSTOS_8_FLOATS(d, 8)
#define NOSTOS_32_FLOATS(d) NOSTOS_16_FLOATS(d), NOSTOS_8_FLOATS(d, 16), NOSTOS_8_FLOATS(d, 24)
#define NOSTOS_40_FLOATS(d) \
  NOSTOS_8_FLOATS(d, 0), NOSTOS_8_FLOATS(d, 8), NOSTOS_8_FLOATS(d, 16), NOSTOS_8_FLOATS(d, 24), NOSTOS_8_FLOATS(d, 32)
#define NOSTOS_64_FLOATS(d) NOSTOS_40_FLOATS(d), NOSTOS_8_FLOATS(d, 40), NOSTOS_8_FLOATS(d, 48), NOSTOS_8_FLOATS(d, 56)
#define NOSTOS_96_FLOATS(d) \
  NOSTOS_64_FLOATS(d), NOSTOS_8_FLOATS(d, 64), NOSTOS_8_FLOATS(d, 72), NOSTOS_8_FLOATS(d, 80), NOSTOS_8_FLOATS(d, 88)

/// d [64, kColumns] (+)= a [64, 16] b [kColumns, 16]^T in float32; a and b are tiles along k. Lane l of warp w has rows
/// 16 w + l / 4 and 8 below that, of each 8 columns those from l % 4 * 2 on: two of the upper row, then two of the
/// lower.
template <int kColumns>
__device__ void product(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool accumulate);

template <>
__device__ inline void product<32>(float (&d)[16], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_15
      "}, %16, %17, accumulates, 1, 1, 0, 0;\n}\n"
      : NOSTOS_16_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ inline void product<64>(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_31
      "}, %32, %33, accumulates, 1, 1, 0, 0;\n}\n"
      : NOSTOS_32_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ inline void product<80>(float (&d)[40], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %42, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_39
      "}, %40, %41, accumulates, 1, 1, 0, 0;\n}\n"
      : NOSTOS_40_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ inline void product<128>(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_63
      "}, %64, %65, accumulates, 1, 1, 0, 0;\n}\n"
      : NOSTOS_64_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ inline void product<192>(float (&d)[96], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_95
      "}, %96, %97, accumulates, 1, 1, 0, 0;\n}\n"
      : NOSTOS_96_FLOATS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

#define NOSTOS_8_INTS(d, i)                                                                                   \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), \
      "+r"(d[i + 7])
#define NOSTOS_32_INTS(d, i) \
  NOSTOS_8_INTS(d, i), NOSTOS_8_INTS(d, i + 8), NOSTOS_8_INTS(d, i + 16), NOSTOS_8_INTS(d, i + 24)
#define NOSTOS_40_INTS(d) NOSTOS_32_INTS(d, 0), NOSTOS_8_INTS(d, 32)
#define NOSTOS_96_INTS(d) NOSTOS_32_INTS(d, 0), NOSTOS_32_INTS(d, 32), NOSTOS_32_INTS(d, 64)

/// d [64, kColumns] (+)= a [64, 32] b [kColumns, 32]^T in whole numbers; a and b are tiles along k of 128 8-bit numbers
/// in the place of 64 bf16. Lanes have of d what they have of a product of bf16.
template <int kColumns>
__device__ void product(int32_t (&d)[kColumns / 2], uint64_t a, uint64_t b, bool accumulate);

template <>
__device__ inline void product<80>(int32_t (&d)[40], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %42, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n80k32.s32.s8.s8 {" NOSTOS_OPERANDS_0_TO_39 "}, %40, %41, accumulates;\n}\n"
      : NOSTOS_40_INTS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

template <>
__device__ inline void product<192>(int32_t (&d)[96], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k32.s32.s8.s8 {" NOSTOS_OPERANDS_0_TO_95 "}, %96, %97, accumulates;\n}\n"
      : NOSTOS_96_INTS(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

/// d [64, 128] += a [64, 16] b [16, 128]: a in registers, as pairs of d's layout; b a tile across k.
__device__ inline void product_transposed(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NOSTOS_OPERANDS_0_TO_63
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
               : NOSTOS_64_FLOATS(d)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

}  // namespace nostos::cuda::hopper
