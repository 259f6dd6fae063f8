// Implements attention on Hopper with the scores kept in registers (as FlashAttention, arXiv 2205.14135 and
// 2407.08608).
//
// A block has tiles of 192 or 128 queries of a head, 64 a warpgroup, and one warpgroup whose single thread brings keys
// and values through a ring of shared memory. A block's scores are begun first and the product of the values of the
// block before it second: while that one is under way a warpgroup takes the scores' exponentials, and the others keep
// the tensor cores busy, too. Blocks of 80 keys leave each of three the registers. Keys are taken in the same blocks in
// the same order whatever the tile, so a query's bits depend on nothing else.
#include <array>

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/hopper_instructions.cuh"
#include "ops/cuda/tensor_map.h"

namespace nostos::cuda {
namespace {

constexpr int kHeadDim = static_cast<int>(kHopperHeadDim), kKeys = 80, kStages = 3;
constexpr int kHalfBytes = 64 * 128, kResultBytes = 2 * kHalfBytes;  // a warpgroup's results, 64 columns wide, all
constexpr int kHalfKeysBytes = kKeys * 128, kValuesBytes = 2 * kHalfKeysBytes;  // a block of keys, 128 bytes wide

constexpr int kWorkers = 3, kThreads = 128 * (kWorkers + 1);
static_assert(kHopperLongTile == 64 * kWorkers && kHopperShortTile == 64 * (kWorkers - 1));

static_assert(kKeys == ops::kKeysAScale);

/// Queries and keys in bf16.
struct Bf16Heads {
  static constexpr bool kIsRounded = false;
  static constexpr int kHalves = 2;  ///< of 128 bytes
  using Sum = float;
};
/// Queries and keys in 8-bit numbers: they come as half as many pairs in the place of bf16.
struct RoundedHeads {
  static constexpr bool kIsRounded = true;
  static constexpr int kHalves = 1;
  using Sum = int32_t;
};

/// Sums of 8-bit products begin at the bits of this float, which is so large that a whole number is added to its bits
/// as it is to its value: they are floats without a conversion, which takes as long as an exponential.
constexpr int32_t kFirstSum = 0x4B400000;
constexpr float kFirstSumValue = 12582912;  // 1.5 * 2^23
static_assert(127 * 127 * kHeadDim < 1 << 22, "sums stay within the floats that are whole numbers apart");

template <class Heads>
constexpr int kSharedBytes = 1024 + kWorkers*(Heads::kHalves* kHalfBytes + kResultBytes) +
                             kStages*(Heads::kHalves* kHalfKeysBytes + kValuesBytes) + 8 * (2 + 4 * kStages);

/// Queries of a head that a block attends with at once.
struct Tile {
  int head, first_row;
};

struct Problem {
  int keys = 0, heads = 0;
  int long_tiles = 0, short_tiles = 0;  ///< of a head
  int heads_a_kv_head = 1;
  float scale_log2 = 0;  ///< of the scores, times log2(e)
  int queries = 0;
  HeadScales scales{};  ///< of rounded heads

  __device__ int tiles() const { return heads * (long_tiles + short_tiles); }
  /// \return how many warpgroups have 64 queries of tile `index` each: all long tiles come first.
  __device__ int workers(int index) const { return index < heads * long_tiles ? kWorkers : kWorkers - 1; }
  __device__ Tile tile(int index) const {
    const int all_long = heads * long_tiles;
    if (index < all_long) return {index / long_tiles, index % long_tiles * kHopperLongTile};
    index -= all_long;
    return {index / short_tiles, long_tiles * kHopperLongTile + index % short_tiles * kHopperShortTile};
  }
};

/// Where runs of rows go, each [count, heads * kHeadDim], anywhere that the GPU reaches.
template <int kMost>
struct Results {
  CUtensorMap maps[kMost];
  std::byte* to[kMost];
  int first[kMost], count[kMost], row_bytes[kMost];  ///< bytes from a row to the next
  int size = 0;

  void add(const ops::RowTarget& target, int64_t columns) {
    maps[size] = tensor_map({.data = target.to,
                             .rows = target.count,
                             .columns = columns,
                             .row_stride = target.stride,
                             .tile_rows = 64,
                             .tile_columns = 64});
    to[size] = target.to;
    first[size] = static_cast<int>(target.first);
    count[size] = static_cast<int>(target.count);
    row_bytes[size++] = static_cast<int>(target.stride * static_cast<int64_t>(sizeof(bfloat16)));
  }
};
static_assert(sizeof(Results<static_cast<int>(ops::kMostRowTargets)>) + 3 * sizeof(CUtensorMap) + sizeof(Problem) <
                  4096,
              "older drivers take no more parameters");

__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline float as_score(float sum) { return sum; }
__device__ inline float as_score(int32_t sum) { return __int_as_float(sum); }
__device__ inline void keep(float value, float& sum) { sum = value; }
__device__ inline void keep(float value, int32_t& sum) { sum = __float_as_int(value); }

/// Sums are scaled anew where the largest score rises by more than this in units of log2, which is rare after the first
/// block of keys: exponentials of up to 2^8 have the relative error of those up to 1. Each row decides for itself.
constexpr float kMostRise = 8;

/// One warpgroup's 64 queries in registers; a thread has two rows, see hopper::product().
template <class Heads>
struct Queries {
  typename Heads::Sum sums[kKeys / 2];
  uint32_t weights[kKeys / 4];  ///< of the values: exponentials of the scores, in pairs
  float mixed[kHeadDim / 2];    ///< values summed so far, in units of exp(top)
  float top[2], sum[2];         ///< of each row: about the largest score, the exponentials' sum (of this thread's)
  float scale_log2[2];          ///< of each row's scores, times log2(e)
  float factor[2];              ///< of mixed, where there is one
  bool has_factor;

  __device__ void reset() {
#pragma unroll
    for (float& value : mixed) value = 0;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  /// Makes whole sums begin where they do; while no products are under way.
  __device__ void begin_sums() {
    if constexpr (Heads::kIsRounded) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        sums[i] = kFirstSum;
        asm volatile("" : "+r"(sums[i]));  // here, not later
      }
    }
  }

  /// \return the larger of `top` and two scores.
  __device__ static float largest_of(float top, float a, float b) {
    if constexpr (!Heads::kIsRounded) return fmaxf(fmaxf(top, a), b);
    // Sums are floats above zero, or what is masked: their bits compare as they do, three in one instruction.
    return __int_as_float(__vimax3_s32(__float_as_int(top), __float_as_int(a), __float_as_int(b)));
  }

  /// sums <- exponentials of the scores of keys below `valid`, and what they mean for the sums so far. `mixed` may be
  /// under way.
  /// \param key_scale of these keys, where heads are rounded
  template <bool kMasked, bool kFirst>
  __device__ void soften(int valid, float key_scale) {
    float scores[kKeys / 2];
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) scores[i] = as_score(sums[i]);
    // In units of log2 a score is score * scale - offset. So is the top of rounded heads, whose scale changes.
    float scale[2] = {scale_log2[0], scale_log2[1]}, offset[2] = {};
    if constexpr (Heads::kIsRounded) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        scale[row] *= key_scale;
        offset[row] = kFirstSumValue * scale[row];
      }
    }
    if constexpr (kMasked) {
      const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (i / 4 * 8 + column + i % 2 >= valid) scores[i] = -INFINITY;
    }
    float next[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kKeys / 2; i += 2) next[i / 2 % 2] = largest_of(next[i / 2 % 2], scores[i], scores[i + 1]);
    const float unit[2] = {Heads::kIsRounded ? 1.f : scale[0], Heads::kIsRounded ? 1.f : scale[1]};
    bool rises = false;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      next[row] = fmaxf(next[row], __shfl_xor_sync(kAllLanes, next[row], 1));
      next[row] = fmaxf(next[row], __shfl_xor_sync(kAllLanes, next[row], 2));
      if constexpr (Heads::kIsRounded) next[row] = fmaf(next[row], scale[row], -offset[row]);
      if constexpr (kFirst) continue;
      const bool row_rises = (next[row] - top[row]) * unit[row] > kMostRise;
      next[row] = row_rises ? next[row] : top[row];
      rises = rises || row_rises;
    }
    has_factor = !kFirst && __any_sync(kAllLanes, rises);
    if (has_factor) {
      // That of a row that does not rise is one, which keeps its bits.
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        factor[row] = exp2_of((top[row] - next[row]) * unit[row]);
        sum[row] *= factor[row];
      }
    }
    top[0] = next[0];
    top[1] = next[1];
    const float shift[2] = {fmaf(top[0], unit[0], offset[0]), fmaf(top[1], unit[1], offset[1])};
#pragma unroll
    for (int i = 0; i < kKeys / 2; i += 2) {
      const int row = i / 2 % 2;
      // What is masked takes no factor: that of rows of zeros is zero, and zero times infinity is no number.
      const auto exponent = [&](float score) {
        return kMasked && score == -INFINITY ? score : fmaf(score, scale[row], -shift[row]);
      };
      const float a = exp2_of(exponent(scores[i]));
      const float b = exp2_of(exponent(scores[i + 1]));
      sum[row] += a;
      sum[row] += b;
      keep(a, sums[i]);
      keep(b, sums[i + 1]);
    }
  }

  /// Makes weights of the exponentials and scales `mixed`; while no products are under way. Weights made earlier, the
  /// assembler has every product run by itself.
  __device__ void finish() {
    if (has_factor) {
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; ++i) mixed[i] *= factor[i / 2 % 2];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) weights[i] = pack_bf16(as_score(sums[2 * i]), as_score(sums[2 * i + 1]));
  }
};

template <class Heads, int kMostRuns>
__global__ void __launch_bounds__(kThreads, 1)
    attention_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                     const __grid_constant__ CUtensorMap v, const __grid_constant__ Results<kMostRuns> out,
                     const __grid_constant__ Problem problem) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kQueriesBytes = Heads::kHalves * kHalfBytes, kKeysBytes = Heads::kHalves * kHalfKeysBytes;
  extern __shared__ uint8_t shared[];
  const uint32_t query_tiles = (hopper::shared_address(shared) + 1023u) & ~1023u;
  const uint32_t result_tiles = query_tiles + kWorkers * kQueriesBytes;
  const uint32_t key_ring = result_tiles + kWorkers * kResultBytes, value_ring = key_ring + kStages * kKeysBytes;
  const uint32_t queries_full = value_ring + kStages * kValuesBytes, queries_empty = queries_full + 8;
  const uint32_t keys_full = queries_empty + 8, keys_empty = keys_full + 8 * kStages;
  const uint32_t values_full = keys_empty + 8 * kStages, values_empty = values_full + 8 * kStages;
  const int warpgroup = hopper::warpgroup_index(), thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    hopper::make_barrier(queries_full, 1);
    hopper::make_barrier(queries_empty, kWorkers);
    for (int stage = 0; stage < kStages; ++stage) {
      for (const uint32_t full : {keys_full, values_full}) hopper::make_barrier(full + 8 * stage, 1);
      for (const uint32_t empty : {keys_empty, values_empty}) hopper::make_barrier(empty + 8 * stage, kWorkers);
    }
    hopper::publish_barriers();
  }
  __syncthreads();

  // Blocks of keys are counted through all tiles; the count is the same in all of a warp, which the compiler must see.
  const int blocks = (problem.keys + kKeys - 1) / kKeys, stride = static_cast<int>(gridDim.x);
  uint32_t first = 0, tile_phase = 0;  // block of keys of a tile
  const auto stage_of = [](uint32_t at) { return at % kStages; };
  const auto phase_of = [](uint32_t at) { return at / kStages % 2; };
  if (warpgroup == kWorkers) {
    hopper::lower_registers<24>();
    if (thread != 0) return;
    // Brings what lies 128 bytes wide, and 64 columns of bf16 further on its other half.
    const auto load = [&](const CUtensorMap& map, int halves, uint32_t to, uint32_t full, int block, int head) {
      for (int half = 0; half < halves; ++half)
        hopper::load_tile(to + half * kHalfKeysBytes, map, full, 64 * half, block * kKeys, head);
    };
    for (int index = static_cast<int>(blockIdx.x); index < problem.tiles(); index += stride, first += blocks) {
      const auto [head, first_row] = problem.tile(index);
      const int workers = problem.workers(index);
      hopper::wait(queries_empty, tile_phase ^ 1);
      hopper::arrive_expecting(queries_full, workers * kQueriesBytes);
      for (int i = 0; i < Heads::kHalves * workers; ++i)
        hopper::load_tile(query_tiles + i * kHalfBytes, q, queries_full, i % Heads::kHalves * 64,
                          first_row + i / Heads::kHalves * 64, head);
      tile_phase ^= 1;
      const int kv_head = head / problem.heads_a_kv_head;
      for (int block = 0; block < blocks; ++block) {
        const uint32_t at = first + block, stage = stage_of(at), emptied = phase_of(at) ^ 1;
        const uint32_t has_keys = keys_full + 8 * stage, has_values = values_full + 8 * stage;
        hopper::wait(keys_empty + 8 * stage, emptied);
        hopper::arrive_expecting(has_keys, kKeysBytes);
        load(k, Heads::kHalves, key_ring + stage * kKeysBytes, has_keys, block, kv_head);
        hopper::wait(values_empty + 8 * stage, emptied);
        hopper::arrive_expecting(has_values, kValuesBytes);
        load(v, 2, value_ring + stage * kValuesBytes, has_values, block, kv_head);
      }
    }
    return;
  }

  hopper::raise_registers<160>();
  const int lane = thread % 32;
  const uint32_t own_queries = query_tiles + warpgroup * kQueriesBytes;
  const uint32_t own_result = result_tiles + warpgroup * kResultBytes;
  Queries<Heads> queries;
  const auto wait_for = [&](uint32_t full, int block) {
    hopper::wait(full + 8 * stage_of(first + block), phase_of(first + block));
  };
  const auto release = [&](uint32_t empty, int block) {
    if (thread == 0) hopper::arrive(empty + 8 * stage_of(first + block));
  };
  const auto begin_scores = [&](int block) {
    wait_for(keys_full, block);
    hopper::begin_products();
    const uint64_t a = hopper::tile_along_k(own_queries);
    const uint64_t b = hopper::tile_along_k(key_ring + stage_of(first + block) * kKeysBytes);
#pragma unroll
    for (int i = 0; i < 4 * Heads::kHalves; ++i) {
      const uint64_t within = i % 4 * hopper::kStepK, half = i / 4;
      hopper::product<kKeys>(queries.sums, a + within + half * (kHalfBytes >> 4),
                             b + within + half * (kHalfKeysBytes >> 4), Heads::kIsRounded || i > 0);
    }
    hopper::end_products();
  };
  const auto begin_mixing = [&](int block) {
    wait_for(values_full, block);
    hopper::begin_products();
    const uint64_t b = hopper::tile_across_k(value_ring + stage_of(first + block) * kValuesBytes, kHalfKeysBytes);
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i)
      hopper::product_transposed(queries.mixed, queries.weights + 4 * i, b + i * hopper::kStepAcrossK);
    hopper::end_products();
  };
  const int last_valid = problem.keys - (blocks - 1) * kKeys;
  const auto attend = [&](int head, int first_row) {
    queries.reset();
    queries.scale_log2[0] = queries.scale_log2[1] = problem.scale_log2;
    if constexpr (Heads::kIsRounded) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = first_row + thread / 32 * 16 + lane / 4 + 8 * i;
        queries.scale_log2[i] *= row < problem.queries ? problem.scales.q[head * problem.queries + row] : 0.f;
      }
    }
    // Read while products are under way.
    const float* key_scales = problem.scales.k + head / problem.heads_a_kv_head * blocks;
    const auto key_scale = [&](int block) { return Heads::kIsRounded ? __ldg(key_scales + block) : 0.f; };
    queries.begin_sums();
    begin_scores(0);
    float scale = key_scale(0);
    hopper::wait_products<0>();
    release(keys_empty, 0);
    if (blocks > 1)
      queries.template soften<false, true>(kKeys, scale);
    else
      queries.template soften<true, true>(last_valid, scale);
    queries.finish();
    const auto go_on_to = [&]<bool kIsLast>(int block, std::bool_constant<kIsLast>) {
      queries.begin_sums();
      begin_scores(block);
      begin_mixing(block - 1);
      scale = key_scale(block);
      hopper::wait_products<1>();
      release(keys_empty, block);
      queries.template soften<kIsLast, false>(kIsLast ? last_valid : kKeys, scale);
      hopper::wait_products<0>();
      release(values_empty, block - 1);
      queries.finish();
    };
    for (int block = 1; block < blocks - 1; ++block) go_on_to(block, std::false_type());
    if (blocks > 1) go_on_to(blocks - 1, std::true_type());
    if (thread == 0) hopper::arrive(queries_empty);
    begin_mixing(blocks - 1);
    float inverse[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float sum = queries.sum[row];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      inverse[row] = 1 / sum;
    }
    hopper::wait_products<0>();
    release(values_empty, blocks - 1);

    if (thread == 0) hopper::wait_stores_read<0>();
    hopper::wait_together(1 + warpgroup, 128);
    const int row = thread / 32 * 16 + lane % 16;
#pragma unroll
    for (int eight = 0; eight < kHeadDim / 8; eight += 2) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = queries.mixed + 4 * eight + 2 * i;
        pairs[i] = pack_bf16(pair[0] * inverse[i % 2], pair[1] * inverse[i % 2]);
      }
      // Rows of 128 bytes, swizzled as the tensor map says.
      const int column = eight + lane / 16;
      hopper::store_matrices(own_result + column / 8 * kHalfBytes + row * 128 + ((column % 8) ^ (row % 8)) * 16, pairs);
    }
    hopper::publish_writes();
    hopper::wait_together(1 + warpgroup, 128);
    if (thread == 0) {
      for (int i = 0; i < (kMostRuns == 1 ? 1 : out.size); ++i) {
        const int at = first_row - out.first[i];
        if (kMostRuns > 1 && (at < 0 || at >= out.count[i])) continue;
        for (int half = 0; half < 2; ++half)
          hopper::store_tile(out.maps[i], own_result + half * kHalfBytes, head * kHeadDim + half * 64, at);
      }
      hopper::store_begun();
    }
    // What has gone ends with its run. Runs that begin within the tile get their rows word by word: no store begins
    // before its tensor (an illegal instruction).
    for (int i = 0; kMostRuns > 1 && i < out.size; ++i) {
      constexpr int kRowWords = kHeadDim * 2 / 16;
      const int begin = out.first[i] - first_row, count = min(64 - begin, out.count[i]);
      if (begin <= 0) continue;
      for (int word = thread; word < count * kRowWords; word += 128) {
        const int from = begin + word / kRowWords, column = word % kRowWords;
        const uint32_t at = own_result + column / 8 * kHalfBytes + from * 128 + ((column % 8) ^ (from % 8)) * 16;
        *reinterpret_cast<uint4*>(out.to[i] + static_cast<int64_t>(word / kRowWords) * out.row_bytes[i] +
                                  head * kHeadDim * 2 + column * 16) = hopper::load_word(at);
      }
    }
  };

  for (int index = static_cast<int>(blockIdx.x); index < problem.tiles(); index += stride, first += blocks) {
    const uint32_t phase = tile_phase;
    tile_phase ^= 1;
    if (warpgroup < problem.workers(index)) {
      const auto [head, first_row] = problem.tile(index);
      hopper::wait(queries_full, phase);
      attend(head, first_row + warpgroup * 64);
      continue;
    }
    // Lets the others go on. One thread follows the ring and the rest wait for it: without products to keep them
    // together, any of them could fall two rounds behind a barrier, or come one too early, and take its parity for the
    // other.
    if (thread == 0) {
      hopper::wait(queries_full, phase);
      hopper::arrive(queries_empty);
      for (int block = 0; block < blocks; ++block) {
        wait_for(keys_full, block);
        release(keys_empty, block);
        wait_for(values_full, block);
        release(values_empty, block);
      }
    }
    hopper::wait_together(1 + warpgroup, 128);
  }
  if (thread == 0) hopper::wait_stores_done();
#endif
}

/// Heads as they lie in memory: [heads, rows, width], elements of bf16 from one head and row to the next.
struct HeadRows {
  const std::byte* data;
  int64_t heads, rows, width, head_stride, row_stride;

  CUtensorMap tiles(int tile_rows) const {
    return tensor_map({.data = data,
                       .planes = heads,
                       .rows = rows,
                       .columns = width,
                       .row_stride = row_stride,
                       .plane_stride = head_stride,
                       .tile_rows = tile_rows,
                       .tile_columns = 64});
  }
};

/// What is attended to. \param scales null: q and k are bf16
struct Attended {
  HeadRows q, k, v;
  float scale;
  HeadScales scales;
};

template <class Heads, int kMostRuns>
void attend_to(Context& ctx, const Attended& heads, std::span<const ops::RowTarget> out) {
  const auto& [q, k, v, scale, scales] = heads;
  Results<kMostRuns> results;
  for (const ops::RowTarget& target : out)
    if (target.count > 0) results.add(target, q.heads * kHeadDim);
  const HopperTiles chosen = hopper_tiles(q.heads, q.rows, multiprocessors(ctx));
  const Problem problem{.keys = static_cast<int>(k.rows),
                        .heads = static_cast<int>(q.heads),
                        .long_tiles = chosen.long_tiles,
                        .short_tiles = chosen.short_tiles,
                        .heads_a_kv_head = static_cast<int>(q.heads / k.heads),
                        .scale_log2 = scale * 1.4426950408889634f,
                        .queries = static_cast<int>(q.rows),
                        .scales = scales};
  const auto kernel = attention_kernel<Heads, kMostRuns>;
  constexpr int kShared = kSharedBytes<Heads>;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
             "cannot reserve shared memory");
  kernel<<<static_cast<unsigned>(chosen.blocks), kThreads, kShared, ctx.stream().handle()>>>(
      q.tiles(64), k.tiles(kKeys), v.tiles(kKeys), results, problem);
  check_launch("attention");
}

template <class Heads>
void attend(Context& ctx, const Attended& heads, std::span<const ops::RowTarget> out) {
  if (out.size() == 1)
    attend_to<Heads, 1>(ctx, heads, out);
  else
    attend_to<Heads, static_cast<int>(ops::kMostRowTargets)>(ctx, heads, out);
}

void attend(Context& ctx, const Attended& heads, std::span<const ops::RowTarget> out) {
  if (heads.q.heads == 0 || heads.q.rows == 0) return;
  if (heads.scales.q == nullptr) return attend<Bf16Heads>(ctx, heads, out);
  attend<RoundedHeads>(ctx, heads, out);
}

}  // namespace

void hopper_attention(Context& ctx, const ops::QueriesKeysValues& heads, float scale, const HeadScales& scales,
                      View out) {
  const auto rows = [](ConstView x) {
    const int64_t width = kHeadDim * static_cast<int64_t>(size_bytes(x.dtype())) / 2;
    return HeadRows{x.bytes(), x.shape()[0], x.shape()[1], width, x.shape()[1] * width, width};
  };
  attend(ctx, {rows(heads.q), rows(heads.k), rows(heads.v), scale, scales},
         std::array{ops::RowTarget{0, out.shape()[0], out.bytes(), out.shape()[1]}});
}

void hopper_packed_attention(Context& ctx, ConstView qkv, ops::HeadCounts heads, float scale, const HeadScales& scales,
                             std::span<const ops::RowTarget> out) {
  const auto part = [&](int64_t first, int64_t count, int64_t width) {
    return HeadRows{qkv.bytes() + first * kHeadDim * static_cast<int64_t>(sizeof(bfloat16)),
                    count,
                    qkv.shape()[0],
                    width,
                    kHeadDim,
                    qkv.shape()[1]};
  };
  const int64_t width = scales.q == nullptr ? kHeadDim : kHeadDim / 2;  // of rounded heads the first halves
  attend(ctx,
         {part(0, heads.q, width), part(heads.q, heads.kv, width), part(heads.q + heads.kv, heads.kv, kHeadDim), scale,
          scales},
         out);
}

}  // namespace nostos::cuda
