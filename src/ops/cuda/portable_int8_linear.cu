// Implements products of 8-bit numbers with the tensor cores that every GPU from compute capability 8.0 on has.
//
// A block of 8 warps has a tile of 128 x 256 of the product, a warp 64 x 64 of it. Operands come 64 numbers of a row at
// a time through three stages of shared memory.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/launch.h"
#include "ops/cuda/portable_int8_linear.h"

namespace nostos::cuda {
namespace {

constexpr int kTileRows = 128, kTileColumns = 256, kTileK = 64, kStages = 3, kWarp = 64, kThreads = 256;
constexpr int kChunk = 16, kChunksOfRow = kTileK / kChunk;  // bytes that are copied at once
constexpr int kXBytes = kTileRows * kTileK, kStageBytes = (kTileRows + kTileColumns) * kTileK;
constexpr int kSharedBytes = kStages * kStageBytes;
// Rows that all threads copy a chunk each of.
constexpr int kCopiedRows = kThreads / kChunksOfRow, kCopies = (kTileRows + kTileColumns) / kCopiedRows;
static_assert(kTileRows % kCopiedRows == 0 && kTileColumns % kCopiedRows == 0);
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
  const int64_t first_row = int64_t{blockIdx.y} * kTileRows, first_column = int64_t{blockIdx.x} * kTileColumns;
  const int steps = static_cast<int>((in + kTileK - 1) / kTileK), chunk = thread % kChunksOfRow;

  // What this thread copies in each step: a chunk of some rows of the weight and of x.
  const int8_t* from[kCopies];
  bool has_row[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const bool is_weight = i * kCopiedRows >= kTileRows;
    const Operand& of = is_weight ? weight : x;
    const int64_t row = (is_weight ? first_column - kTileRows : first_row) + i * kCopiedRows + thread / kChunksOfRow;
    has_row[i] = row < of.rows;
    from[i] = of.numbers + (has_row[i] ? row : 0) * in + chunk * kChunk;
  }
  const auto bring = [&](int step) {
    int8_t* const stage = stages + step % kStages * kStageBytes;
    const bool has_chunk = step * kTileK + chunk * kChunk < in;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool is_there = has_row[i] && has_chunk;
      copy_chunk(stage + place_of(i * kCopiedRows + thread / kChunksOfRow, chunk),
                 is_there ? from[i] + step * kTileK : x.numbers, is_there);
    }
    asm volatile("cp.async.commit_group;");
  };

  int32_t sums[kWarp / 16][kWarp / 8][4] = {};
  const int warp_row = warp % 2 * kWarp, warp_column = warp / 2 * kWarp;
  for (int step = 0; step < kStages - 1; ++step) bring(step);
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
    __syncthreads();
    bring(step + kStages - 1);
    const int8_t* const a_tile = stages + step % kStages * kStageBytes;
    const int8_t* const b_tile = a_tile + kXBytes;
#pragma unroll
    for (int half = 0; half < kTileK / 32; ++half) {
      uint32_t a[kWarp / 16][4], b[kWarp / 16][4];
#pragma unroll
      for (int i = 0; i < kWarp / 16; ++i) {
        load_matrices(a_tile + place_of(warp_row + i * 16 + lane % 16, half * 2 + lane / 16), a[i]);
        load_matrices(b_tile + place_of(warp_column + i * 16 + lane % 16, half * 2 + lane / 16), b[i]);
      }
#pragma unroll
      for (int i = 0; i < kWarp / 16; ++i)
#pragma unroll
        for (int j = 0; j < kWarp / 8; ++j) multiply(a[i], b[j / 2][j % 2], b[j / 2][j % 2 + 2], sums[i][j]);
    }
  }

#pragma unroll
  for (int i = 0; i < kWarp / 16; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + warp_row + i * 16 + half * 8 + lane / 4;
      if (row >= x.rows) continue;
      const float of_row = x.scales[row];
#pragma unroll
      for (int j = 0; j < kWarp / 8; ++j) {
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
  const auto tiles = [](int64_t all, int tile) { return static_cast<unsigned>((all + tile - 1) / tile); };
  check_cuda(cudaFuncSetAttribute(int8_linear_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "cannot reserve shared memory");
  int8_linear_kernel<<<dim3(tiles(columns, kTileColumns), tiles(rows, kTileRows)), kThreads, kSharedBytes,
                       ctx.stream().handle()>>>({x.data<int8_t>(), x_scales.data<float>(), rows},
                                                {weight.data<int8_t>(), weight_scales.data<float>(), columns}, in,
                                                y.data<bfloat16>());
  check_launch("int8_linear");
}

}  // namespace nostos::cuda
