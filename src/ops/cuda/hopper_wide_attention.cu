// Implements the fused attention of a wide head. A block has 64 queries. Its sums are too wide for one warp group's
// registers, so the work is divided by kind: one warp group copies, one multiplies queries by keys and takes the
// softmax's exponentials, and two multiply these by one half of the values' columns each. Blocks of a cluster copy each
// tile of keys and values once for all of them. A row's weights are relative to the largest score that it has met, or
// one a little lower: then older sums need no scaling. Source: FlashAttention-3 (arXiv 2407.08608).
#include "device/cuda/check.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/hopper.h"
#include "ops/cuda/hopper_cluster.cuh"
#include "ops/cuda/tensor_map.h"

namespace nostos::cuda {
namespace {

constexpr int kWidth = static_cast<int>(kHopperWideHead);
constexpr int kQueries = 64;  ///< of a block
constexpr int kKeys = 128;    ///< of a tile
constexpr int kStrip = 64;    ///< channels of a row that lie side by side in shared memory: 128 bytes
constexpr int kStrips = kWidth / kStrip;
constexpr int kStages = 4;  ///< of keys, and as many of values, that are copied ahead
constexpr int kPieces = 8;  ///< stages of a tile: of keys a strip of all of it, of values 16 keys
constexpr int kPieceKeys = kKeys / kPieces;
constexpr int kGroup = 128;  ///< threads of a warp group
constexpr int kThreads = 4 * kGroup;
constexpr int kScoreWarps = 4, kValueWarps = 8;
constexpr int kCluster = 2;  ///< blocks: measured on an H200 at 65536 tokens, 1 takes 19.6 ms, 2 17.3, 4 19.0

constexpr uint32_t kStageBytes = kKeys * kStrip * 2;
constexpr uint32_t kQueryBytes = kQueries * kWidth * 2;
constexpr uint32_t kStripBytes = kQueries * kStrip * 2;  ///< of queries or weights
constexpr uint32_t kWeightBytes = kQueries * kKeys * 2;
static_assert(kStageBytes == kPieceKeys * kWidth * 2 && kStrips == kPieces && kPieces % kStages == 0);

/// Where things lie in shared memory, from a multiple of 1 KiB on.
constexpr uint32_t kKeysAt = kQueryBytes, kValuesAt = kKeysAt + kStages * kStageBytes;
constexpr uint32_t kWeightsAt = kValuesAt + kStages * kStageBytes;
constexpr uint32_t kBarriersAt = kWeightsAt + 2 * kWeightBytes;
constexpr uint32_t kSharedBytes = kBarriersAt + 1024 + 1024;  // the second for the alignment

/// A warp's rows whose sums so far must be scaled before a tile's are added, and the sums' last factors.
struct Factors {
  float factor[2][kQueries];
  float last[kQueries];
  int any[2][4];
};

enum Barrier : uint32_t {
  kQueriesFull,
  kSumsFull,
  kKeysFull,
  kKeysEmpty = kKeysFull + kStages,
  kValuesFull = kKeysEmpty + kStages,
  kValuesEmpty = kValuesFull + kStages,
  kWeightsFull = kValuesEmpty + kStages,
  kWeightsEmpty = kWeightsFull + 2,
  kBarriers = kWeightsEmpty + 2
};
static_assert(kBarriers * 8 + sizeof(Factors) <= 1024);

/// A row's largest score may grow by this much (a factor of 256) before sums are scaled anew.
constexpr float kSlack = 8;

/// The same for all threads of a block.
struct Block {
  uint32_t base, rank;
  int first_query, tiles, keys;
  Factors* factors;

  __device__ __forceinline__ uint32_t barrier(uint32_t which) const { return base + kBarriersAt + which * 8; }
};

/// Tells every block of the cluster that this warp has read a stage.
__device__ __forceinline__ void release(const Block& block, uint32_t barrier) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane < kCluster) hopper::arrive_at(block.barrier(barrier), lane);
}

/// Copies the stages of all tiles: this block's part of each to all blocks of the cluster.
/// \param full, empty the first of their barriers. \param load (stage's address and barrier, tile, piece) copies.
template <class Load>
__device__ __forceinline__ void copy_stages(const Block& block, uint32_t full, uint32_t empty, uint32_t at,
                                            const Load& load) {
  for (int i = 0; i < block.tiles * kPieces; ++i) {
    const int stage = i % kStages, turn = i / kStages;
    if (turn > 0) hopper::wait(block.barrier(empty + stage), (turn - 1) & 1);
    const uint32_t barrier = block.barrier(full + stage);
    hopper::arrive_expecting(barrier, kStageBytes);
    load(block.base + at + stage * kStageBytes, barrier, i / kPieces, i % kPieces);
  }
}

/// The softmax of a thread's two rows as it goes over the tiles; powers of two.
struct Rows {
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};

  /// Takes the scores of a tile: moves the tops where they are too low, and says by which factors older sums shrink.
  __device__ __forceinline__ void look(const Block& block, int tile, float scale, float (&scores)[64], int buffer) {
    const int warp = static_cast<int>(threadIdx.x) % kGroup / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int left = block.keys - tile * kKeys;
    if (left < kKeys) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= left) scores[i] = -INFINITY;
      }
    }
    float most[2] = {-INFINITY, -INFINITY}, factor[2] = {1, 1};
#pragma unroll
    for (int i = 0; i < 64; ++i) most[i / 2 % 2] = fmaxf(most[i / 2 % 2], scores[i]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      most[r] = fmaxf(most[r], __shfl_xor_sync(kAllLanes, most[r], 1));
      most[r] = fmaxf(most[r], __shfl_xor_sync(kAllLanes, most[r], 2)) * scale;
      if (most[r] > top[r] + kSlack) {
        factor[r] = exp2f(top[r] - most[r]);
        top[r] = most[r];
      }
      sum[r] *= factor[r];
      if (lane % 4 == 0) block.factors->factor[buffer][warp * 16 + lane / 4 + r * 8] = factor[r];
    }
    const bool any = __any_sync(kAllLanes, factor[0] != 1 || factor[1] != 1);
    if (lane == 0) block.factors->any[buffer][warp] = any;
  }

  /// Writes the weights of piece `piece` of a tile's scores.
  __device__ __forceinline__ void weigh(float scale, const float (&scores)[64], int piece, uint32_t weights) {
    const uint32_t warp = threadIdx.x % kGroup / 32, lane = threadIdx.x % 32, row = lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = piece * 2 + i;  // of eights
      float weight[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        weight[k] = exp2f(fmaf(scores[4 * column + k], scale, -top[k / 2]));
        sum[k / 2] += weight[k];
      }
      const uint32_t to = weights + column / 8 * kStripBytes + (warp * 16 + row) * 128 +
                          ((static_cast<uint32_t>(column) % 8 ^ row) << 4) + lane % 4 * 4;
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(pack_bf16(weight[0], weight[1])) : "memory");
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + 8 * 128), "r"(pack_bf16(weight[2], weight[3])) : "memory");
    }
  }
};

/// Begins the products of the queries with stage `piece` of a tile of keys.
__device__ __forceinline__ void begin_scores(const Block& block, int piece, float (&scores)[64]) {
  const uint32_t stage = piece % kStages;
  hopper::wait(block.barrier(kKeysFull + stage), piece / kStages & 1);
  const uint64_t queries = hopper::tile_along_k(block.base + piece * kStripBytes);
  const uint64_t keys = hopper::tile_along_k(block.base + kKeysAt + stage * kStageBytes);
  hopper::begin_products();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    hopper::product<128>(scores, queries + step * hopper::kStepK, keys + step * hopper::kStepK, piece > 0 || step > 0);
  hopper::end_products();
}

/// One tile: its weights from `scores`, while the products of the next tile are under way if there is one.
template <bool kMore>
__device__ __forceinline__ void weigh_tile(const Block& block, int tile, float scale, Rows& rows, float (&scores)[64],
                                           float (&next)[64]) {
  const int buffer = tile % 2;
  const uint32_t weights = block.base + kWeightsAt + buffer * kWeightBytes;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    if constexpr (kMore) begin_scores(block, piece, next);
    if (piece == 0) {
      if (tile >= 2) hopper::wait(block.barrier(kWeightsEmpty + buffer), (tile / 2 - 1) & 1);
      rows.look(block, tile, scale, scores, buffer);
    }
    rows.weigh(scale, scores, piece, weights);
    if constexpr (kMore) {
      if (piece > 0) {
        hopper::wait_products<1>();
        release(block, kKeysEmpty + (piece - 1) % kStages);
      }
    }
  }
  hopper::publish_writes();
  hopper::arrive(block.barrier(kWeightsFull + buffer));
  if constexpr (kMore) {
    hopper::wait_products<0>();
    hopper::hold(next);
    release(block, kKeysEmpty + (kPieces - 1) % kStages);
  }
}

/// The warp group that has the scores.
__device__ __forceinline__ void weigh(const Block& block, float scale) {
  Rows rows;
  float scores[64], next[64];
  hopper::wait(block.barrier(kQueriesFull), 0);
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    begin_scores(block, piece, next);
    hopper::wait_products<0>();
    release(block, kKeysEmpty + piece % kStages);
  }
  hopper::hold(next);
  for (int tile = 0; tile < block.tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 64; ++i) scores[i] = next[i];
    if (tile + 1 < block.tiles)
      weigh_tile<true>(block, tile, scale, rows, scores, next);
    else
      weigh_tile<false>(block, tile, scale, rows, scores, next);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = lane_sum(rows.sum[r], 4);
    const uint32_t warp = threadIdx.x % kGroup / 32, lane = threadIdx.x % 32;
    if (lane % 4 == 0) block.factors->last[warp * 16 + lane / 4 + r * 8] = 1.f / sum;
  }
  hopper::arrive(block.barrier(kSumsFull));
}

/// A warp group that has one half of the values' columns.
__device__ __forceinline__ void mix(const Block& block, int half, int queries, bfloat16* out) {
  const int warp = static_cast<int>(threadIdx.x) % kGroup / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = warp * 16 + lane / 4;
  float sums[2][64];
  for (int tile = 0; tile < block.tiles; ++tile) {
    const int buffer = tile % 2;
    hopper::wait(block.barrier(kWeightsFull + buffer), tile / 2 & 1);
    if (tile > 0 && block.factors->any[buffer][warp]) {
      const float factor[2] = {block.factors->factor[buffer][row], block.factors->factor[buffer][row + 8]};
#pragma unroll
      for (int i = 0; i < 64; ++i) sums[0][i] *= factor[i / 2 % 2], sums[1][i] *= factor[i / 2 % 2];
    }
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const int stage = piece % kStages;
      hopper::wait(block.barrier(kValuesFull + stage), piece / kStages & 1);
      const uint32_t weights = block.base + kWeightsAt + buffer * kWeightBytes + piece / 4 * kStripBytes;
      const uint32_t values = block.base + kValuesAt + stage * kStageBytes + half * (kStageBytes / 2);
      hopper::begin_products();
#pragma unroll
      for (uint32_t part = 0; part < 2; ++part)
        hopper::product_across_k(sums[part], hopper::tile_along_k(weights) + piece % 4 * hopper::kStepK,
                                 hopper::tile_across_k(values + part * (kStageBytes / 4), kPieceKeys * 128),
                                 tile > 0 || piece > 0);
      hopper::end_products();
      if (piece > 0) {
        hopper::wait_products<1>();
        release(block, kValuesEmpty + (piece - 1) % kStages);
      }
    }
    hopper::wait_products<0>();
    hopper::hold(sums[0]);
    hopper::hold(sums[1]);
    release(block, kValuesEmpty + (kPieces - 1) % kStages);
    if (lane == 0) hopper::arrive(block.barrier(kWeightsEmpty + buffer));
  }
  hopper::wait(block.barrier(kSumsFull), 0);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = block.first_query + row + r * 8;
    if (query >= queries) continue;
    const float factor = block.factors->last[row + r * 8];
    bfloat16* const to = out + static_cast<int64_t>(query) * kWidth + half * (kWidth / 2) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < 32; ++n)
      *reinterpret_cast<uint32_t*>(to + n * 8) =
          pack_bf16(sums[n / 16][4 * (n % 16) + 2 * r] * factor, sums[n / 16][4 * (n % 16) + 2 * r + 1] * factor);
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    wide_attention_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                          const __grid_constant__ CUtensorMap v, float scale, int queries, int keys, bfloat16* out) {
  extern __shared__ uint8_t shared[];
  const uint32_t unaligned = hopper::shared_address(shared), base = (unaligned + 1023) & ~1023u;
  const Block block{base,
                    hopper::cluster_rank(),
                    static_cast<int>(blockIdx.x) * kQueries,
                    (keys + kKeys - 1) / kKeys,
                    keys,
                    reinterpret_cast<Factors*>(shared + (base - unaligned) + kBarriersAt + kBarriers * 8)};
  if (threadIdx.x == 0) {
    hopper::make_barrier(block.barrier(kQueriesFull), 1);
    hopper::make_barrier(block.barrier(kSumsFull), kGroup);
    for (uint32_t stage = 0; stage < kStages; ++stage) {
      hopper::make_barrier(block.barrier(kKeysFull + stage), 1);
      hopper::make_barrier(block.barrier(kKeysEmpty + stage), kCluster * kScoreWarps);
      hopper::make_barrier(block.barrier(kValuesFull + stage), 1);
      hopper::make_barrier(block.barrier(kValuesEmpty + stage), kCluster * kValueWarps);
    }
    for (uint32_t buffer = 0; buffer < 2; ++buffer) {
      hopper::make_barrier(block.barrier(kWeightsFull + buffer), kGroup);
      hopper::make_barrier(block.barrier(kWeightsEmpty + buffer), kValueWarps);
    }
    hopper::publish_barriers();
  }
  hopper::wait_for_cluster();

  constexpr uint32_t kPart = kStageBytes / kCluster;
  constexpr uint16_t kAll = (1 << kCluster) - 1;
  switch (threadIdx.x / kGroup) {
    case 0:
      hopper::lower_registers<24>();
      if (threadIdx.x == 0) {
        hopper::arrive_expecting(block.barrier(kQueriesFull), kQueryBytes);
        hopper::load_tile(base, q, block.barrier(kQueriesFull), 0, block.first_query, 0);
        copy_stages(block, kKeysFull, kKeysEmpty, kKeysAt, [&](uint32_t to, uint32_t barrier, int tile, int piece) {
          hopper::load_tile_to_all(to + block.rank * kPart, k, barrier, 0,
                                   tile * kKeys + static_cast<int>(block.rank) * (kKeys / kCluster), piece, kAll);
        });
      } else if (threadIdx.x == 32) {
        copy_stages(
            block, kValuesFull, kValuesEmpty, kValuesAt, [&](uint32_t to, uint32_t barrier, int tile, int piece) {
              hopper::load_tile_to_all(to + block.rank * kPart, v, barrier, 0, tile * kKeys + piece * kPieceKeys,
                                       static_cast<int>(block.rank) * (kStrips / kCluster), kAll);
            });
      }
      __syncwarp();
      break;
    case 1:
      hopper::raise_registers<168>();
      weigh(block, scale);
      break;
    default:
      hopper::raise_registers<160>();
      mix(block, static_cast<int>(threadIdx.x) / kGroup - 2, queries, out);
  }
  hopper::wait_for_cluster();  // others may still write to this block's shared memory
}

/// \return the map of x [rows, 512] as strips of 64 channels: a tile has some rows of some strips.
CUtensorMap strips_of(ConstView x, int tile_rows, int tile_strips) {
  return tensor_map({.data = x.bytes(),
                     .planes = kStrips,
                     .rows = x.shape()[0],
                     .columns = kStrip,
                     .row_stride = kWidth,
                     .plane_stride = kStrip,
                     .tile_planes = tile_strips,
                     .tile_rows = tile_rows,
                     .tile_columns = kStrip});
}

}  // namespace

void hopper_wide_attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, View out) {
  constexpr double kLog2E = 1.4426950408889634;
  const CUtensorMap q_map = strips_of(q, kQueries, kStrips), k_map = strips_of(k, kKeys / kCluster, 1),
                    v_map = strips_of(v, kPieceKeys, kStrips / kCluster);
  check_cuda(cudaFuncSetAttribute(wide_attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "cannot set wide_attention's shared memory");
  const int64_t queries = q.shape()[0], blocks = (queries + kQueries - 1) / kQueries;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>((blocks + kCluster - 1) / kCluster * kCluster));
  launch.blockDim = dim3(kThreads);
  launch.dynamicSmemBytes = kSharedBytes;
  launch.stream = ctx.stream().handle();
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&launch, wide_attention_kernel, q_map, k_map, v_map,
                                static_cast<float>(static_cast<double>(scale) * kLog2E), static_cast<int>(queries),
                                static_cast<int>(k.shape()[0]), out.data<bfloat16>()),
             "cannot launch wide_attention");
}

}  // namespace nostos::cuda
