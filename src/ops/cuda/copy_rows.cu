// Implements the copy of scattered rows: one launch for up to 128 runs, which travel as its parameters.
#include <algorithm>

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/elementwise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

constexpr int kMaxRuns = 128;

/// Runs in words of the copy, within one entry of the outer axis.
struct Runs {
  int count = 0;
  int64_t words = 0;            ///< of all runs
  int64_t begin[kMaxRuns + 1];  ///< where a run begins among the words of all, in order
  int64_t from[kMaxRuns];       ///< to be added to that place
  int64_t to[kMaxRuns];
};

constexpr int64_t kMostBlocksY = 65535;  // of a grid

/// Block (b, y) copies its words of entries y, y + gridDim.y ... of the outer axis.
template <class Word>
__global__ void __launch_bounds__(kBlockThreads)
    copy_rows_kernel(const Word* from, Word* to, int64_t outer, int64_t from_words, int64_t to_words,
                     const __grid_constant__ Runs runs) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockThreads * 4 + threadIdx.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t word = first + i * kBlockThreads;
    if (word >= runs.words) return;
    int low = 0, high = runs.count;  // the run that holds `word`
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (runs.begin[middle] <= word)
        low = middle;
      else
        high = middle;
    }
    for (int64_t y = blockIdx.y; y < outer; y += gridDim.y)
      to[y * to_words + runs.to[low] + word] = from[y * from_words + runs.from[low] + word];
  }
}

}  // namespace

void run(OnCuda<copy_rows>, Context& ctx, ConstView from, View to, std::span<const RowRun> runs) {
  const int64_t outer = from.shape()[0];
  int64_t row_elements = 1;
  for (int axis = 2; axis < from.shape().rank(); ++axis) row_elements *= from.shape()[axis];
  const int64_t row_bytes = row_elements * static_cast<int64_t>(size_bytes(from.dtype()));
  const int word_bytes = copy_word_bytes(reinterpret_cast<uintptr_t>(from.bytes()),
                                         reinterpret_cast<uintptr_t>(to.bytes()), static_cast<uint64_t>(row_bytes));
  const int64_t row_words = row_bytes / word_bytes;
  const auto launch = [&](const Runs& part) {
    if (outer == 0 || part.words == 0) return;
    const dim3 grid(blocks_for((part.words + 3) / 4), static_cast<unsigned>(std::min(outer, kMostBlocksY)));
    const auto run = [&]<class Word>(Word*) {
      copy_rows_kernel<<<grid, kBlockThreads, 0, ctx.stream().handle()>>>(
          reinterpret_cast<const Word*>(from.bytes()), reinterpret_cast<Word*>(to.bytes()), outer,
          from.shape()[1] * row_words, to.shape()[1] * row_words, part);
      check_launch("copy_rows");
    };
    if (word_bytes == 16)
      run(static_cast<uint4*>(nullptr));
    else if (word_bytes == 4)
      run(static_cast<uint32_t*>(nullptr));
    else if (word_bytes == 2)
      run(static_cast<uint16_t*>(nullptr));
    else
      run(static_cast<uint8_t*>(nullptr));
  };
  Runs part;
  for (const RowRun& run : runs) {
    if (run.count == 0) continue;
    if (part.count == kMaxRuns) {
      launch(part);
      part = Runs{};
    }
    part.begin[part.count] = part.words;
    part.from[part.count] = run.from * row_words - part.words;
    part.to[part.count] = run.to * row_words - part.words;
    part.words += run.count * row_words;
    ++part.count;
  }
  launch(part);
}

}  // namespace nostos::ops
