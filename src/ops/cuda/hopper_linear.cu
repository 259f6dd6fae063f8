// Implements products with several weights on Hopper: the first half of a SwiGLU layer, whose two products never leave
// the chip, and the sum of some products.
//
// A block has tiles of 192 x 192 or 128 x 192 of the product, one warpgroup of rows each 64, and one warpgroup whose
// single thread brings operands through a ring of shared memory, for a short tile 192 rows, too. Every sum runs over k
// in the same steps of 16 whatever the number of rows, so rows do not depend on each other.
#include <array>
#include <type_traits>

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/hopper_instructions.cuh"
#include "ops/cuda/tensor_map.h"
#include "ops/int8_linear.h"

namespace nostos::cuda {
namespace {

constexpr int kWorkers = 3, kThreads = 128 * (kWorkers + 1);  // warpgroups that multiply; with the one that loads
static_assert(kHopperLongTile == 64 * kWorkers);
constexpr int kTileRows = kHopperLongTile, kTileColumns = 192, kTileK = 64;
constexpr int kStages = 4, kXBytes = kTileRows * kTileK * 2, kWeightBytes = kTileColumns * kTileK * 2;
constexpr int kStageBytes = kXBytes + kWeightBytes;
constexpr int kMostTermSteps = 2;  // of kStages, so that the ring goes on
static_assert(kMostTermSteps * kTileK == ops::kMostInt8TermRank);
constexpr int kPartColumns = 32, kPartBytes = 64 * kPartColumns * 2;  // in which a warpgroup's result leaves
constexpr int kSharedBytes = 1024 + kStages * kStageBytes + 2 * kWorkers * kPartBytes + 2 * kStages * 8;
// Blocks that run at once share tiles of 6 columns of the weight, which the second-level cache holds beside x.
constexpr int kColumnsTogether = 6;

/// Where a tile begins, and how many warpgroups have 64 of its rows each.
struct Tile {
  int first_row, column, workers;
};

template <int kTerms>
struct Tiles {
  int rows = 0;                         ///< of x
  int long_tiles = 0, short_tiles = 0;  ///< of a tile of columns
  int across = 0;
  int ends_k[kTerms - 1] = {};  ///< steps of the first product, of the first two and so on
  int steps_k = 0;              ///< of all products

  __device__ int count() const { return across * (long_tiles + short_tiles); }
  /// \return tile `index`: all long ones come first, and of each kind they run down first inside a group of columns.
  __device__ Tile tile(int index) const {
    const int all_long = across * long_tiles;
    const bool is_long = index < all_long;
    const int down = is_long ? long_tiles : short_tiles, of_kind = is_long ? index : index - all_long;
    const int group = of_kind / (down * kColumnsTogether), first = group * kColumnsTogether;
    const int width = min(kColumnsTogether, across - first), within = of_kind - first * down;
    const int row = within / width;
    return {is_long ? row * kHopperLongTile : long_tiles * kHopperLongTile + row * kHopperShortTile,
            first + within % width, is_long ? kHopperLongTile / 64 : kHopperShortTile / 64};
  }
};

__device__ inline float silu_times(float gate, float up) { return up * __fdividef(gate, 1.f + __expf(-gate)); }

/// What is multiplied: x [rows, k] and a weight [columns, k].
struct Factors {
  CUtensorMap x, weight;
};
/// Those of each product of a sum.
template <int kTerms>
struct FactorList {
  Factors at[kTerms];
};

/// A product of the sum, and its step that begins where the sum's does.
struct Term {
  int which, first_step;
};
template <int kTerms>
__device__ inline Term term_of(const Tiles<kTerms>& tiles, int step) {
  Term term{0, 0};
#pragma unroll
  for (int i = 0; i < kTerms - 1; ++i)
    if (step >= tiles.ends_k[i]) term = {i + 1, tiles.ends_k[i]};
  return term;
}

/// What products of bf16 are multiplied with.
struct NoScales {
  /// Those of a thread's two rows and of its tile.
  struct OfTile {
    __device__ OfTile(const NoScales&, int, int, int, int) {}
    __device__ void apply(const float* sums, int, float (&out)[4]) const {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i] = sums[i];
    }
  };
};

/// What products of 8-bit numbers are multiplied with: a number for each row and one for each column.
struct EachScales {
  const float *rows, *columns;
  int column_count;

  struct OfTile {
    float upper, lower;    // of this thread's rows
    const float* columns;  // from this thread's first on
    int left;              // of them

    __device__ OfTile(const EachScales& all, int row, int row_count, int first_column, int lane)
        : upper(row < row_count ? all.rows[row] : 0.f),
          lower(row + 8 < row_count ? all.rows[row + 8] : 0.f),
          columns(all.columns + first_column + lane % 4 * 2),
          left(all.column_count - first_column - lane % 4 * 2) {}
    /// \param eight which eight columns of the tile
    __device__ void apply(const int32_t* sums, int eight, float (&out)[4]) const {
      const float2 own = 8 * eight < left ? __ldg(reinterpret_cast<const float2*>(columns + 8 * eight)) : float2{};
      out[0] = static_cast<float>(sums[0]) * upper * own.x;
      out[1] = static_cast<float>(sums[1]) * upper * own.y;
      out[2] = static_cast<float>(sums[2]) * lower * own.x;
      out[3] = static_cast<float>(sums[3]) * lower * own.y;
    }
  };
};

/// 16 columns of a warpgroup's result as pairs that store_matrices() takes, of the product d itself or of 8 gates and 8
/// columns that they gate: both of a pair are this thread's.
/// \param sixteen which of d's, of the results
/// \param term of the part's columns, added to what the scales make of the sums. \param first sixteen of the part
template <bool kGated, class Sum, class Scales, class Term>
__device__ inline void pack_sixteen(const Sum* d, const Scales& scales, const Term& term, int first, int sixteen,
                                    uint32_t (&pairs)[4]) {
  const auto apply = [&](int eight, float(&sums)[4]) {
    scales.apply(d + 4 * eight, eight, sums);
    term.add_to(eight - (kGated ? 4 : 2) * first, sums);
  };
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int eight = 2 * sixteen + j;
    float sums[4];
    if constexpr (kGated) {
      float up[4];
      apply(2 * eight, sums);
      apply(2 * eight + 1, up);
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[i] = silu_times(sums[i], up[i]);
    } else {
      apply(eight, sums);
    }
    pairs[2 * j] = pack_bf16(sums[0], sums[1]);
    pairs[2 * j + 1] = pack_bf16(sums[2], sums[3]);
  }
}

/// Nothing beside a product.
struct NoTerm {
  __device__ static void add_to(int, float (&)[4]) {}
};

/// A product of bf16 beside one of 8-bit numbers, for some columns of a warpgroup's rows at a time: with sums of its
/// own for all of them there would be too few registers.
template <int kColumns>
struct SmallTerm {
  float sums[kColumns / 2];

  __device__ void add_to(int eight, float (&to)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] += sums[4 * eight + i];
  }
};

/// out = the products' sum, gated if kGated. A sum over k takes the first product's k, then the second's and so on.
/// Numbers of 8 bits come as pairs in the place of bf16: a step is then of 32 of them. What is beside their product, if
/// kHasTerm, is in at most kMostTermSteps steps, which stay in the ring until it is added.
template <class Sum, class Scales, bool kGated, int kTerms, bool kHasTerm>
__global__ void __launch_bounds__(kThreads, 1)
    linear_kernel(const __grid_constant__ FactorList<kTerms> factors, const __grid_constant__ Scales scales,
                  const __grid_constant__ CUtensorMap out, const __grid_constant__ Tiles<kTerms> tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  const uint32_t ring = (hopper::shared_address(shared) + 1023u) & ~1023u;
  const uint32_t parts = ring + kStages * kStageBytes;
  const uint32_t full = parts + 2 * kWorkers * kPartBytes, empty = full + 8 * kStages;
  const int warpgroup = hopper::warpgroup_index(), thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::make_barrier(full + 8 * stage, 1);
      hopper::make_barrier(empty + 8 * stage, kWorkers);
    }
    hopper::publish_barriers();
  }
  __syncthreads();

  // Steps are counted through all tiles; the count is the same in all of a warp, which the compiler must see.
  const int count = tiles.count(), stride = static_cast<int>(gridDim.x);
  uint32_t first = 0;  // step of a tile
  const auto stage_of = [](uint32_t at) { return at % kStages; };
  const auto phase_of = [](uint32_t at) { return at / kStages % 2; };
  if (warpgroup == kWorkers) {
    hopper::lower_registers<24>();
    if (thread != 0) return;
    for (int index = static_cast<int>(blockIdx.x); index < count; index += stride, first += tiles.steps_k) {
      const Tile tile = tiles.tile(index);
      for (int k = 0; k < tiles.steps_k; ++k) {
        const uint32_t stage = stage_of(first + k);
        hopper::wait(empty + 8 * stage, phase_of(first + k) ^ 1);
        hopper::arrive_expecting(full + 8 * stage, kStageBytes);
        const uint32_t to = ring + stage * kStageBytes;
        const Term term = term_of(tiles, k);
        const Factors& from = factors.at[term.which];
        const int column = (k - term.first_step) * kTileK;
        hopper::load_tile(to, from.x, full + 8 * stage, column, tile.first_row);
        hopper::load_tile(to + kXBytes, from.weight, full + 8 * stage, column, tile.column * kTileColumns);
      }
    }
    return;
  }

  hopper::raise_registers<160>();
  const int lane = thread % 32, warp_row = thread / 32 * 16;
  const uint32_t own_parts = parts + warpgroup * 2 * kPartBytes;
  const auto wait_for = [&](int k) { hopper::wait(full + 8 * stage_of(first + k), phase_of(first + k)); };
  const auto release = [&](int k) {
    if (thread == 0) hopper::arrive(empty + 8 * stage_of(first + k));
  };
  for (int index = static_cast<int>(blockIdx.x); index < count; index += stride, first += tiles.steps_k) {
    const Tile tile = tiles.tile(index);
    const int first_row = tile.first_row + warpgroup * 64;
    if (warpgroup >= tile.workers || first_row >= tiles.rows) {
      // Lets the others go on. One thread follows the ring and the rest wait for it: without products to keep them
      // together, any of them could fall two rounds behind a barrier and take its parity for the other.
      if (thread == 0) {
        for (int k = 0; k < tiles.steps_k; ++k) {
          wait_for(k);
          release(k);
        }
      }
      hopper::wait_together(1 + warpgroup, 128);
      continue;
    }
    Sum d[kTileColumns / 2];
    const int steps = kHasTerm ? tiles.ends_k[0] : tiles.steps_k;
    for (int k = 0; k < steps; ++k) {
      wait_for(k);
      const uint32_t from = ring + stage_of(first + k) * kStageBytes;
      const uint64_t a = hopper::tile_along_k(from + warpgroup * (64 * kTileK * 2));
      const uint64_t b = hopper::tile_along_k(from + kXBytes);
      hopper::begin_products();
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i)
        hopper::product<kTileColumns>(d, a + i * hopper::kStepK, b + i * hopper::kStepK, k > 0 || i > 0);
      hopper::end_products();
      hopper::wait_products<1>();
      if (k > 0) release(k - 1);  // which the products before have read
    }
    hopper::wait_products<0>();
    release(steps - 1);
    for (int k = steps; k < tiles.steps_k; ++k) wait_for(k);

    // The parts of the result take turns in two places of shared memory.
    constexpr int kColumns = kGated ? kTileColumns / 2 : kTileColumns;
    const typename Scales::OfTile of_tile(scales, first_row + warp_row + lane / 4, tiles.rows,
                                          tile.column * kTileColumns, lane);
    const int row = warp_row + lane % 16;
#pragma unroll
    for (int part = 0; part < kColumns / kPartColumns; ++part) {
      const uint32_t place = own_parts + part % 2 * kPartBytes;
      constexpr int kProductColumns = kGated ? 2 * kPartColumns : kPartColumns;
      std::conditional_t<kHasTerm, SmallTerm<kProductColumns>, NoTerm> term;
      if constexpr (kHasTerm) {
        hopper::begin_products();
        for (int k = steps; k < tiles.steps_k; ++k) {
          const uint32_t from = ring + stage_of(first + k) * kStageBytes;
          const uint64_t a = hopper::tile_along_k(from + warpgroup * (64 * kTileK * 2));
          const uint64_t b = hopper::tile_along_k(from + kXBytes + part * (kProductColumns * kTileK * 2));
#pragma unroll
          for (int i = 0; i < kTileK / 16; ++i)
            hopper::product<kProductColumns>(term.sums, a + i * hopper::kStepK, b + i * hopper::kStepK,
                                             k > steps || i > 0);
        }
        hopper::end_products();
        hopper::wait_products<0>();
      }
      if (thread == 0) hopper::wait_stores_read<1>();
      hopper::wait_together(1 + warpgroup, 128);
#pragma unroll
      for (int sixteen = 0; sixteen < kPartColumns / 16; ++sixteen) {
        uint32_t pairs[4];
        constexpr int kSixteens = kPartColumns / 16;
        pack_sixteen<kGated>(d, of_tile, term, part * kSixteens, part * kSixteens + sixteen, pairs);
        // Rows of 64 bytes, swizzled as the tensor map says.
        hopper::store_matrices(place + row * 64 + (((2 * sixteen + lane / 16) ^ (row / 2 % 4)) * 16), pairs);
      }
      hopper::publish_writes();
      hopper::wait_together(1 + warpgroup, 128);
      if (thread == 0) {
        hopper::store_tile(out, place, tile.column * kColumns + part * kPartColumns, first_row);
        hopper::store_begun();
      }
    }
    for (int k = steps; k < tiles.steps_k; ++k) release(k);
  }
  if (thread == 0) hopper::wait_stores_done();
#endif
}

Factors factors(const HopperFactors& of, int64_t rows, int64_t columns) {
  const auto tiled = [&](const std::byte* data, int64_t all, int tile) {
    return tensor_map({.data = data, .rows = all, .columns = of.in, .tile_rows = tile, .tile_columns = kTileK});
  };
  return {tiled(of.x, rows, kTileRows), tiled(of.weight, columns, kTileColumns)};
}

/// \param terms one to kTerms products \param columns of the products
template <class Sum, bool kGated, int kTerms, bool kHasTerm = false, class Scales>
void launch(Context& ctx, std::span<const HopperFactors> terms, const Scales& scales, int64_t columns, View out) {
  nostos::check(!terms.empty() && terms.size() <= kTerms, "a kernel sums so many products");
  const int64_t rows = out.shape()[0];
  if (rows == 0) return;
  const auto tiles_of = [](int64_t all, int64_t tile) { return static_cast<int>((all + tile - 1) / tile); };
  const int across = tiles_of(columns, kTileColumns);
  const HopperTiles cut = hopper_tiles(across, rows, multiprocessors(ctx));
  Tiles<kTerms> tiles{static_cast<int>(rows), cut.long_tiles, cut.short_tiles, across};
  FactorList<kTerms> list;
  for (int i = 0; i < kTerms; ++i) {
    const bool is_there = i < static_cast<int>(terms.size());
    list.at[i] = factors(terms[is_there ? static_cast<size_t>(i) : 0], rows, columns);
    if (is_there) tiles.steps_k += tiles_of(terms[static_cast<size_t>(i)].in, kTileK);
    if (i < kTerms - 1) tiles.ends_k[i] = tiles.steps_k;
  }
  constexpr auto* kKernel = linear_kernel<Sum, Scales, kGated, kTerms, kHasTerm>;
  check_cuda(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "cannot reserve shared memory");
  kKernel<<<static_cast<unsigned>(cut.blocks), kThreads, kSharedBytes, ctx.stream().handle()>>>(
      list, scales,
      tensor_map({.data = out.bytes(),
                  .rows = rows,
                  .columns = out.shape()[1],
                  .tile_rows = 64,
                  .tile_columns = kPartColumns}),
      tiles);
  check_launch("linear");
}

}  // namespace

bool has_hopper_kernels(Device device) {
  return device.kind == DeviceKind::cuda && device_properties(device.index).compute_capability == 90;
}

void hopper_gated_linear(Context& ctx, std::span<const HopperFactors> terms, View out) {
  launch<float, true, 2>(ctx, terms, NoScales{}, 2 * out.shape()[1], out);
}

void hopper_linear_sum(Context& ctx, std::span<const HopperFactors> terms, View out) {
  if (terms.size() <= 2)
    launch<float, false, 2>(ctx, terms, NoScales{}, out.shape()[1], out);
  else
    launch<float, false, kMostHopperTerms>(ctx, terms, NoScales{}, out.shape()[1], out);
}

namespace {

template <bool kGated>
void launch_int8(Context& ctx, const Int8Factors& of, int64_t columns, View out) {
  const std::array factors{HopperFactors{of.x, of.weight, of.in / 2}, of.term};
  const std::span<const HopperFactors> terms(factors);
  const EachScales scales{of.x_scales, of.weight_scales, static_cast<int>(columns)};
  if (of.term.x == nullptr) return launch<int32_t, kGated, 2>(ctx, terms.first(1), scales, columns, out);
  nostos::check(of.term.in <= kMostTermSteps * kTileK, "a term beside a product of 8-bit numbers is of low rank");
  launch<int32_t, kGated, 2, true>(ctx, terms, scales, columns, out);
}

}  // namespace

void hopper_int8_linear(Context& ctx, const Int8Factors& of, bool gated, View out) {
  if (gated)
    launch_int8<true>(ctx, of, 2 * out.shape()[1], out);
  else
    launch_int8<false>(ctx, of, out.shape()[1], out);
}

}  // namespace nostos::cuda
