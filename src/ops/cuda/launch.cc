// Implements the launch choices.
#include "ops/cuda/launch.h"

#include "base/error.h"
#include "base/rounding.h"

namespace nostos::cuda {
namespace {

constexpr int64_t kWarp = 32;
constexpr int64_t kBlockThreads = 256;

}  // namespace

RowLaunch row_launch(int64_t rows, int64_t channels, int multiprocessors, bool two_norms) {
  RowLaunch launch;
  launch.vector = channels % kVector == 0 ? kVector : 1;
  const int64_t vectors = channels / launch.vector;
  for (const int groups : {1, 2, 4}) {
    launch.groups = groups;
    launch.threads = static_cast<int>(divide_up(divide_up(vectors, groups), kWarp) * kWarp);
    if (launch.threads <= kRowThreads) break;
  }
  launch.threads = std::max(launch.threads, static_cast<int>(kWarp));
  if (launch.threads > kRowThreads) fail(ErrorKind::internal, "the CUDA kernels have no rows of {} channels", channels);
  const int resident = row_resident_threads(launch.groups, two_norms) / launch.threads;
  launch.blocks = static_cast<int>(std::min<int64_t>(rows, multiprocessors * resident));
  return launch;
}

RowLaunch rounded_row_launch(int64_t rows, int64_t channels, int multiprocessors) {
  constexpr int64_t kRotation = kWarp * kVector;
  check(channels % kRotation == 0 && channels <= kMostRoundedChannels, "rows are rounded in whole rotations");
  RowLaunch launch{kVector, kRoundedGroups, 0, 0};
  launch.threads = static_cast<int>(kWarp * divide_up(channels / kRotation, kRoundedGroups));
  launch.blocks = static_cast<int>(std::min<int64_t>(rows, multiprocessors * kRoundedBlocks));
  return launch;
}

GroupSumsLaunch group_sums_launch(int64_t channels, int64_t groups) {
  constexpr int64_t kSumsVector = 4;
  const int64_t most_channels = channels > 128 ? 64 : 32;  // 128 rows of 128 channels need more blocks to fill a GPU
  const int64_t width = channels / groups, block_groups = std::clamp<int64_t>(most_channels / width, 1, groups);
  const bool whole = channels % kSumsVector == 0 && block_groups * width % kSumsVector == 0;
  GroupSumsLaunch launch;
  launch.vector = whole ? static_cast<int>(kSumsVector) : 1;
  const int64_t lanes = block_groups * width / launch.vector;
  if (lanes > kBlockThreads) fail(ErrorKind::internal, "the CUDA kernels have no groups of {} channels", width);
  launch.block_groups = static_cast<int>(block_groups);
  launch.lanes = static_cast<int>(lanes);
  launch.pixels = static_cast<int>(kBlockThreads / lanes);
  launch.blocks_a_row = static_cast<int>(divide_up(groups, block_groups));
  return launch;
}

GroupApplyLaunch group_apply_launch(int64_t channels) {
  GroupApplyLaunch launch;
  launch.vector = channels % kVector == 0 ? kVector : 1;
  launch.lanes = static_cast<int>(std::clamp<int64_t>(channels / launch.vector, 1, kBlockThreads));
  launch.pixels = static_cast<int>(kBlockThreads) / launch.lanes;
  return launch;
}

bool has_vector_heads(int64_t head_dim) {
  const int64_t lanes = head_dim / kVector;
  return head_dim % kVector == 0 && lanes >= 2 && lanes <= kWarp && (lanes & (lanes - 1)) == 0;
}

int copy_word_bytes(uint64_t from_address, uint64_t to_address, uint64_t row_bytes) {
  const uint64_t all = from_address | to_address | row_bytes;
  for (const int word : {16, 4, 2}) {
    if (all % static_cast<uint64_t>(word) == 0) return word;
  }
  return 1;
}

HopperTiles hopper_tiles(int64_t columns, int64_t rows, int multiprocessors) {
  // Measured on an H200 with attention: a round of short tiles takes 0.71 of the time of one of long ones. It stands
  // for SwiGLU's, too.
  constexpr double kShortTime = 0.71;
  HopperTiles best;
  double best_time = 0;
  for (int64_t short_tiles = 0; short_tiles <= divide_up(rows, kHopperShortTile); ++short_tiles) {
    const int64_t rest = std::max<int64_t>(rows - short_tiles * kHopperShortTile, 0);
    const int64_t long_tiles = divide_up(rest, kHopperLongTile), all = columns * (long_tiles + short_tiles);
    // The first block has the longest tile of every round.
    const int64_t long_rounds = divide_up(columns * long_tiles, multiprocessors);
    const int64_t short_rounds = divide_up(all, multiprocessors) - long_rounds;
    const double time = static_cast<double>(long_rounds) + kShortTime * static_cast<double>(short_rounds);
    if (best.blocks > 0 && time >= best_time) continue;
    best_time = time;
    best = {static_cast<int>(long_tiles), static_cast<int>(short_tiles),
            static_cast<int>(std::min<int64_t>(all, multiprocessors))};
  }
  return best;
}

}  // namespace nostos::cuda
