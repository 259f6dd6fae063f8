// Implements products of 8-bit numbers with the tensor cores that every GPU from compute capability 8.0 on has.
//
// A block of 8 warps has a tile of 128 x 128 of the product, a warp 64 x 32 of it. Operands come 64 numbers of a row at
// a time through three stages of shared memory.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/portable_int8_linear.h"

namespace nostos::cuda {
namespace {

constexpr int kTile = 128, kTileK = 64, kStages = 3, kWarpRows = 64, kWarpColumns = 32, kThreads = 256;
constexpr int kChunk = 16, kChunksOfRow = kTileK / kChunk;  // bytes that are copied at once
constexpr int kOperandBytes = kTile * kTileK, kStageBytes = 2 * kOperandBytes, kSharedBytes = kStages * kStageBytes;
static_assert(fits_every_gpu(kThreads, kSharedBytes));

/// \return where chunk `chunk` of a tile's row is: threads that read one chunk of eight rows stay out of each other's
/// way.
__device__ inline int place_of(int row, int chunk) {
  return row * kTileK + (chunk ^ (row / 2 % kChunksOfRow)) * kChunk;
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Begins to copy a chunk; without `is_there` zeros are written.
__device__ inline void copy_chunk(int8_t* to, const int8_t* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(is_there ? kChunk : 0));
}

/// Reads four matrices of 8 rows of 16 bytes; a thread names a row of one of them.
__device__ inline void load_matrices(const int8_t* row, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}

/// sums += a b^T of 16 rows and 8 columns, 32 numbers each.
__device__ inline void multiply(const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high, int32_t (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

/// Rows of 8-bit numbers, and what each row's product is multiplied with.
struct Operand {
  const int8_t* numbers;
  const float* scales;
  int64_t rows;
};

__global__ void __launch_bounds__(kThreads)
    int8_linear_kernel(const Operand x, const Operand weight, int64_t in, bfloat16* y) {
  extern __shared__ __align__(128) int8_t stages[];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t first_row = int64_t{blockIdx.y} * kTile, first_column = int64_t{blockIdx.x} * kTile;
  const int steps = static_cast<int>((in + kTileK - 1) / kTileK);

  const auto bring = [&](int step) {
    int8_t* const stage = stages + step % kStages * kStageBytes;
    for (int i = thread; i < 2 * kTile * kChunksOfRow; i += kThreads) {
      const bool is_weight = i >= kTile * kChunksOfRow;
      const Operand& of = is_weight ? weight : x;
      const int row = i / kChunksOfRow % kTile, chunk = i % kChunksOfRow;
      const int64_t from_row = (is_weight ? first_column : first_row) + row,
                    k = int64_t{step} * kTileK + chunk * kChunk;
      const bool is_there = step < steps && from_row < of.rows && k < in;
      copy_chunk(stage + (is_weight ? kOperandBytes : 0) + place_of(row, chunk),
                 of.numbers + (is_there ? from_row * in + k : 0), is_there);
    }
    asm volatile("cp.async.commit_group;");
  };

  int32_t sums[kWarpRows / 16][kWarpColumns / 8][4] = {};
  const int warp_row = warp % 2 * kWarpRows, warp_column = warp / 2 * kWarpColumns;
  for (int step = 0; step < kStages - 1; ++step) bring(step);
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
    __syncthreads();
    bring(step + kStages - 1);
    const int8_t* const a_tile = stages + step % kStages * kStageBytes;
    const int8_t* const b_tile = a_tile + kOperandBytes;
#pragma unroll
    for (int half = 0; half < kTileK / 32; ++half) {
      uint32_t a[kWarpRows / 16][4], b[kWarpColumns / 16][4];
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
        load_matrices(a_tile + place_of(warp_row + i * 16 + lane % 16, half * 2 + lane / 16), a[i]);
#pragma unroll
      for (int j = 0; j < kWarpColumns / 16; ++j)
        load_matrices(b_tile + place_of(warp_column + j * 16 + lane % 16, half * 2 + lane / 16), b[j]);
#pragma unroll
      for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
        for (int j = 0; j < kWarpColumns / 8; ++j) multiply(a[i], b[j / 2][j % 2], b[j / 2][j % 2 + 2], sums[i][j]);
    }
  }

#pragma unroll
  for (int i = 0; i < kWarpRows / 16; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
      if (row >= x.rows) continue;
      const float of_row = x.scales[row];
#pragma unroll
      for (int j = 0; j < kWarpColumns / 8; ++j) {
        const int64_t column = first_column + warp_column + j * 8 + lane % 4 * 2;
        if (column >= weight.rows) continue;
        const auto scaled = [&](int k) {
          return static_cast<float>(sums[i][j][2 * half + k]) * of_row * weight.scales[column + k];
        };
        *reinterpret_cast<uint32_t*>(y + row * weight.rows + column) = pack_bf16(scaled(0), scaled(1));
      }
    }
}

}  // namespace

void portable_int8_linear(Context& ctx, ConstView x, ConstView x_scales, ConstView weight, ConstView weight_scales,
                          View y) {
  const int64_t rows = x.shape()[0], in = x.shape()[1], columns = weight.shape()[0];
  if (rows == 0) return;
  const auto tiles = [](int64_t all) { return static_cast<unsigned>((all + kTile - 1) / kTile); };
  int8_linear_kernel<<<dim3(tiles(columns), tiles(rows)), kThreads, kSharedBytes, ctx.stream().handle()>>>(
      {x.data<int8_t>(), x_scales.data<float>(), rows}, {weight.data<int8_t>(), weight_scales.data<float>(), columns},
      in, y.data<bfloat16>());
  check_launch("int8_linear");
}

}  // namespace nostos::cuda
