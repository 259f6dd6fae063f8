// Owns how CUDA's kernels are launched, and the sizes of tiles that host code must know: pure functions of shapes and
// device, testable without a GPU. A tile that one kernel alone knows stands at the top of its .cu file.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/dtype.h"

namespace nostos::cuda {

/// Elements that a thread reads or writes at once where rows allow it: 16 bytes of bf16, two times 16 bytes of f32.
inline constexpr int kVector = 8;

/// What the generations that Hopper's kernels are not for have of a multiprocessor, beside 64 K registers. Source: CUDA
/// C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability".
struct GpuLimits {
  int compute_capability;  ///< 10 * major + minor
  int64_t block_shared_bytes;
  int threads;
};
inline constexpr GpuLimits kGpuLimits[] = {{80, 163 << 10, 2048}, {86, 99 << 10, 1536},   {89, 99 << 10, 1536},
                                           {90, 227 << 10, 2048}, {100, 227 << 10, 2048}, {120, 99 << 10, 1536}};
/// \return whether each of them can launch blocks of so many threads and bytes of shared memory, and hold so many at
/// once. Registers are the compiler's to limit, by each kernel's __launch_bounds__.
constexpr bool fits_every_gpu(int threads, int64_t shared_bytes, int resident_blocks = 1) {
  for (const GpuLimits& gpu : kGpuLimits) {
    if (threads > 1024 || shared_bytes > gpu.block_shared_bytes || threads * resident_blocks > gpu.threads)
      return false;
  }
  return true;
}

inline constexpr int kRowThreads = 512;  ///< of a block at most

/// Threads of row kernels that a multiprocessor holds at once at least: it caps the registers of each.
/// \param groups as RowLaunch. \param two_norms whether the factors of two norms are kept.
constexpr int row_resident_threads(int groups, bool two_norms) {
  if (groups > 1) return kRowThreads;
  return two_norms ? 2 * kRowThreads : 3 * kRowThreads;
}

/// Launch of a kernel in which a block keeps a row in its threads' registers: thread t has elements [vector * (t + k *
/// threads), + vector) for k < groups. Blocks take rows in turn, as many as run at once. All but `blocks` depends on
/// the channels alone, so that a row is summed in the same order however many there are.
struct RowLaunch {
  int vector = 1;   ///< kVector or 1
  int groups = 1;   ///< 1, 2 or 4
  int threads = 0;  ///< a multiple of 32, at most kRowThreads
  int blocks = 0;
};
/// \throws Error internal for rows wider than 16384 (2048 unless a multiple of 8)
RowLaunch row_launch(int64_t rows, int64_t channels, int multiprocessors, bool two_norms = false);

/// The same of a kernel that rounds rows to 8 bits: group k of warp w is rotation w + k * warps.
inline constexpr int kRoundedGroups = 2;
inline constexpr int kRoundedThreads = 256, kRoundedBlocks = 3;  ///< of a block at most; on a multiprocessor at once
/// One warp of row_launch() has a rotation, whose sums are repeated.
inline constexpr int64_t kMostRoundedChannels = int64_t{kVector} * kRowThreads;
static_assert(kMostRoundedChannels == int64_t{kRoundedThreads} * kRoundedGroups * kVector);
/// \param channels in whole rotations of 256, at most kMostRoundedChannels
RowLaunch rounded_row_launch(int64_t rows, int64_t channels, int multiprocessors);

/// Launch of group_norm_row_sums: a block sums one image row of some whole groups. Thread t has channels
/// [vector * (t % lanes), + vector) of the block's and every `pixels`-th pixel from t / lanes.
struct GroupSumsLaunch {
  int vector = 1;  ///< channels that a thread reads at once: 4 or 1
  int block_groups = 1;
  int lanes = 1;
  int pixels = 1;
  int blocks_a_row = 1;  ///< the last may have fewer groups
  int threads() const { return lanes * pixels; }
};
/// \throws Error internal for groups wider than 256 channels (1024 in whole vectors)
GroupSumsLaunch group_sums_launch(int64_t channels, int64_t groups);

/// Launch of group_norm_apply: thread (x, y) of a block keeps the factors of one vector of channels and has every y-th
/// pixel of some.
struct GroupApplyLaunch {
  int vector = 1;  ///< kVector or 1
  int lanes = 1;   ///< vectors of a pixel that a block has
  int pixels = 1;  ///< threads for each
};
GroupApplyLaunch group_apply_launch(int64_t channels);

/// \return whether split_heads_rope's kernel of head_dim / 8 threads a head can serve: a power of two from 2 to 32 of
/// them.
bool has_vector_heads(int64_t head_dim);

/// The most bytes of scores and probabilities at a time.
inline constexpr int64_t kScoreBytes = int64_t{3} << 29;

/// \return the number of queries that are attended for at once: as many as fill a GPU in the product with the values,
/// whose sum over keys is not split, as kScoreBytes allow.
inline int64_t query_block(int64_t queries, int64_t keys, DType dtype) {
  const int64_t score_bytes = dtype == DType::bf16 ? 6 : 4;  // f32 probabilities replace the scores
  const int64_t fitting = std::max<int64_t>(kScoreBytes / (keys * score_bytes) / 64 * 64, 64);
  return std::min({queries, fitting, int64_t{4096}});
}

/// Bytes that a copy of rows moves at once: the largest of 16, 4, 2 and 1 that divides all of them.
int copy_word_bytes(uint64_t from_address, uint64_t to_address, uint64_t row_bytes);

/// How rows that a Hopper kernel works on for each of some columns (heads, or tiles of a weight) are cut into tiles: of
/// 192 for three warpgroups, then of 128 for two. Blocks take tiles in turn, all long ones first, so that the last
/// round, which is seldom full, can be one of short tiles.
struct HopperTiles {
  int long_tiles = 0, short_tiles = 0;  ///< of a column
  int blocks = 0;
};
HopperTiles hopper_tiles(int64_t columns, int64_t rows, int multiprocessors);
inline constexpr int kHopperLongTile = 192, kHopperShortTile = 128;

}  // namespace nostos::cuda
