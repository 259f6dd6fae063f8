// Implements convolutions of channels-last images on Hopper as products of pixels and filters.
//
// A block has tiles of 4 rows of 64 pixels by 128 channels, two rows for each of two warpgroups. For every 64 channels
// of the input one copy brings the tile's pixels with those around them, and each tap of the filter reads its own
// pixels of that patch: they come from the second-level cache once, not once a tap. The filter's taps come through a
// ring. Every sum runs over blocks of 64 channels, taps and channels in the same order wherever a pixel lies, so pixels
// do not depend on the rest of the image.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/hopper_instructions.cuh"
#include "ops/cuda/tensor_map.h"

namespace nostos::cuda {
namespace {

constexpr int kWorkers = 2, kThreads = 128 * (kWorkers + 1);  // warpgroups that multiply; with the one that loads
constexpr int kTileWidth = 64, kRowsEach = 2, kTileHeight = kWorkers * kRowsEach;
constexpr int kTileOuts = kPhaseOuts, kBlockChannels = 64, kPixelBytes = kBlockChannels * 2;
constexpr int kMostTaps = kMostHopperTaps;  // along a side
constexpr int kPatchBytes =
    ((kTileWidth + kMostTaps - 1) * (kTileHeight + kMostTaps - 1) * kPixelBytes + 1023) / 1024 * 1024;
constexpr int kPatches = 2, kStages = 5, kTapBytes = kTileOuts * kPixelBytes;
constexpr int kPartChannels = 64, kPartBytes = kTileWidth * kPartChannels * 2;  // in which results leave
constexpr int kSharedBytes =
    1024 + kPatches * kPatchBytes + kStages * kTapBytes + 2 * kWorkers * kPartBytes + 2 * 8 * (kPatches + kStages);
constexpr int kPhases = 4;

/// The image that is computed, or the four that interleave to it.
struct Grid {
  int height = 0, width = 0, outs = 0;  ///< of one image
  int top = 0, left = 0;                ///< padding
  int taps = 0;                         ///< along a side of a filter
  int blocks = 0;                       ///< of input channels
  int across = 0, down = 0, out_tiles = 0;
  bool has_phases = false;

  __device__ int count() const { return across * down * out_tiles; }
  __device__ int patch_width() const { return kTileWidth + (has_phases ? kMostTaps : taps) - 1; }
  __device__ int patch_height() const { return kTileHeight + (has_phases ? kMostTaps : taps) - 1; }
};

struct Outputs {
  CUtensorMap maps[kPhases] = {};            ///< of the image, or of each phase
  bfloat16* images[kPhases] = {};            ///< the same as memory
  int64_t row_stride = 0, pixel_stride = 0;  ///< elements
};

struct Tile {
  int row, column, out, phase;
};

/// \return tile `index`: all outputs of the same pixels first.
__device__ inline Tile tile_of(const Grid& grid, int index) {
  const int out = index % grid.out_tiles * kTileOuts, pixels = index / grid.out_tiles;
  return {pixels / grid.across * kTileHeight, pixels % grid.across * kTileWidth, out, out / grid.outs};
}

__global__ void __launch_bounds__(kThreads, 1)
    convolution_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap filter,
                       const __grid_constant__ Outputs y, const float* bias, bool accumulate,
                       const __grid_constant__ Grid grid) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  const uint32_t patches = (hopper::shared_address(shared) + 1023u) & ~1023u;
  const uint32_t ring = patches + kPatches * kPatchBytes, parts = ring + kStages * kTapBytes;
  const uint32_t full = parts + 2 * kWorkers * kPartBytes, empty = full + 8 * kStages;
  const uint32_t patch_full = empty + 8 * kStages, patch_empty = patch_full + 8 * kPatches;
  const int warpgroup = hopper::warpgroup_index(), thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::make_barrier(full + 8 * stage, 1);
      hopper::make_barrier(empty + 8 * stage, kWorkers);
    }
    for (int patch = 0; patch < kPatches; ++patch) {
      hopper::make_barrier(patch_full + 8 * patch, 1);
      hopper::make_barrier(patch_empty + 8 * patch, kWorkers);
    }
    hopper::publish_barriers();
  }
  __syncthreads();

  // Patches and taps are counted through all tiles; the counts are the same in all of a warp, which the compiler must
  // see.
  const int count = grid.count(), stride = static_cast<int>(gridDim.x), taps = grid.taps * grid.taps;
  uint32_t patch = 0, step = 0;
  if (warpgroup == kWorkers) {
    hopper::lower_registers<24>();
    if (thread != 0) return;
    const auto patch_bytes = static_cast<uint32_t>(grid.patch_width() * grid.patch_height() * kPixelBytes);
    for (int index = static_cast<int>(blockIdx.x); index < count; index += stride) {
      const Tile tile = tile_of(grid, index);
      for (int block = 0; block < grid.blocks; ++block, ++patch) {
        const uint32_t place = patch % kPatches, barrier = patch_full + 8 * place;
        hopper::wait(patch_empty + 8 * place, patch / kPatches % 2 ^ 1);
        hopper::arrive_expecting(barrier, patch_bytes);
        hopper::load_tile(patches + place * kPatchBytes, x, barrier, block * kBlockChannels, tile.column - grid.left,
                          tile.row - grid.top);
        for (int tap = 0; tap < taps; ++tap, ++step) {
          const uint32_t stage = step % kStages;
          hopper::wait(empty + 8 * stage, step / kStages % 2 ^ 1);
          hopper::arrive_expecting(full + 8 * stage, kTapBytes);
          hopper::load_tile(ring + stage * kTapBytes, filter, full + 8 * stage, block * kBlockChannels, tile.out, tap);
        }
      }
    }
    return;
  }

  hopper::raise_registers<240>();
  const int lane = thread % 32, warp_row = thread / 32 * 16;
  const uint32_t own_parts = parts + warpgroup * 2 * kPartBytes;
  const auto release = [&](uint32_t barrier) {
    if (thread == 0) hopper::arrive(barrier);
  };
  for (int index = static_cast<int>(blockIdx.x); index < count; index += stride) {
    const Tile tile = tile_of(grid, index);
    const int first_y = grid.has_phases ? tile.phase / 2 : 0, first_x = grid.has_phases ? tile.phase % 2 : 0;
    float d[kRowsEach][kTileOuts / 2];
    for (int block = 0; block < grid.blocks; ++block, ++patch) {
      const uint32_t place = patch % kPatches;
      hopper::wait(patch_full + 8 * place, patch / kPatches % 2);
      const uint32_t own =
          patches + place * kPatchBytes +
          static_cast<uint32_t>((warpgroup * kRowsEach + first_y) * grid.patch_width() + first_x) * kPixelBytes;
      for (int tap_y = 0; tap_y < grid.taps; ++tap_y) {
        for (int tap_x = 0; tap_x < grid.taps; ++tap_x, ++step) {
          const uint32_t stage = step % kStages;
          hopper::wait(full + 8 * stage, step / kStages % 2);
          const uint32_t from = own + static_cast<uint32_t>(tap_y * grid.patch_width() + tap_x) * kPixelBytes;
          const uint64_t upper = hopper::tile_along_k(from);
          const uint64_t lower = hopper::tile_along_k(from + static_cast<uint32_t>(grid.patch_width()) * kPixelBytes);
          const uint64_t b = hopper::tile_along_k(ring + stage * kTapBytes);
          const bool adds = block > 0 || tap_y > 0 || tap_x > 0;
          hopper::begin_products();
#pragma unroll
          for (int i = 0; i < kBlockChannels / 16; ++i) {
            hopper::product<kTileOuts>(d[0], upper + i * hopper::kStepK, b + i * hopper::kStepK, adds || i > 0);
            hopper::product<kTileOuts>(d[1], lower + i * hopper::kStepK, b + i * hopper::kStepK, adds || i > 0);
          }
          hopper::end_products();
          hopper::wait_products<1>();
          // What the products before have read.
          if (adds) release(empty + 8 * ((step - 1) % kStages));
          if (block > 0 && tap_y == 0 && tap_x == 0) release(patch_empty + 8 * ((patch - 1) % kPatches));
        }
      }
    }

    // Lane l has of rows warp_row + l / 4 and 8 below that of each 8 channels those from l % 4 * 2 on.
    const int pixel = tile.column + warp_row + lane / 4, channel = tile.out - tile.phase * grid.outs + lane % 4 * 2;
    uint32_t before[kRowsEach][kTileOuts / 4] = {};
    if (accumulate) {
#pragma unroll
      for (int row = 0; row < kRowsEach; ++row) {
        const int image_row = tile.row + warpgroup * kRowsEach + row;
#pragma unroll
        for (int eight = 0; eight < kTileOuts / 8; ++eight) {
#pragma unroll
          for (int below = 0; below < 2; ++below) {
            const int at = pixel + below * 8, c = channel + eight * 8;
            if (image_row < grid.height && at < grid.width && c < grid.outs)
              before[row][2 * eight + below] = *reinterpret_cast<const uint32_t*>(
                  y.images[tile.phase] + image_row * y.row_stride + at * y.pixel_stride + c);
          }
        }
      }
    }
    hopper::wait_products<0>();
    release(empty + 8 * ((step - 1) % kStages));
    release(patch_empty + 8 * ((patch - 1) % kPatches));

    const int place_row = warp_row + lane % 16;
#pragma unroll
    for (int row = 0; row < kRowsEach; ++row) {
#pragma unroll
      for (int part = 0; part < kTileOuts / kPartChannels; ++part) {
        const uint32_t place = own_parts + part % 2 * kPartBytes;
        if (thread == 0) hopper::wait_stores_read<1>();
        hopper::wait_together(1 + warpgroup, 128);
#pragma unroll
        for (int eight = 0; eight < kPartChannels / 8; eight += 2) {
          uint32_t pairs[4];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int at = part * (kPartChannels / 8) + eight + j, c = channel + at * 8;
            const float2 b = c < grid.outs ? *reinterpret_cast<const float2*>(bias + c) : float2{};
            const float* sums = d[row] + 4 * at;
#pragma unroll
            for (int below = 0; below < 2; ++below) {
              const uint32_t old = before[row][2 * at + below];
              pairs[2 * j + below] = pack_bf16(sums[2 * below] + b.x + __uint_as_float(old << 16),
                                               sums[2 * below + 1] + b.y + __uint_as_float(old & 0xffff0000u));
            }
          }
          // Rows of 128 bytes, swizzled as the tensor map says.
          hopper::store_matrices(place + place_row * 128 + (((eight + lane / 16) ^ (place_row % 8)) * 16), pairs);
        }
        hopper::publish_writes();
        hopper::wait_together(1 + warpgroup, 128);
        if (thread == 0) {
          hopper::store_tile(y.maps[tile.phase], place, tile.out - tile.phase * grid.outs + part * kPartChannels,
                             tile.column, tile.row + warpgroup * kRowsEach + row);
          hopper::store_begun();
        }
      }
    }
  }
  if (thread == 0) hopper::wait_stores_done();
#endif
}

}  // namespace

void hopper_convolution(Context& ctx, ConstView x, const HopperFilter& filter, const Padding& padding, bool accumulate,
                        View y) {
  if (y.elements() == 0) return;
  const auto tiles_of = [](int64_t all, int64_t tile) { return static_cast<int>((all + tile - 1) / tile); };
  const int64_t kernel = filter.kernel;
  const bool has_phases = filter.has_phases;
  const int64_t in = x.shape()[2], outs = y.shape()[2], phases = has_phases ? kPhases : 1, side = has_phases ? 2 : 1;
  Grid grid{.height = static_cast<int>(y.shape()[0] / side),
            .width = static_cast<int>(y.shape()[1] / side),
            .outs = static_cast<int>(outs),
            .top = static_cast<int>(padding.top),
            .left = static_cast<int>(padding.left),
            .taps = static_cast<int>(kernel),
            .blocks = tiles_of(in, kBlockChannels),
            .has_phases = has_phases};
  grid.across = tiles_of(grid.width, kTileWidth);
  grid.down = tiles_of(grid.height, kTileHeight);
  grid.out_tiles = tiles_of(phases * outs, kTileOuts);
  Outputs outputs;
  outputs.row_stride = side * y.shape()[1] * outs;
  outputs.pixel_stride = side * outs;
  for (int64_t phase = 0; phase < phases; ++phase) {
    outputs.images[phase] = y.data<bfloat16>() + (phase / 2 * y.shape()[1] + phase % 2) * outs;
    outputs.maps[phase] = tensor_map({.data = outputs.images[phase],
                                      .planes = grid.height,
                                      .rows = grid.width,
                                      .columns = outs,
                                      .row_stride = outputs.pixel_stride,
                                      .plane_stride = outputs.row_stride,
                                      .tile_rows = kTileWidth,
                                      .tile_columns = kPartChannels});
  }
  const int reach = (has_phases ? kMostTaps : grid.taps) - 1;
  const int blocks = std::min(grid.across * grid.down * grid.out_tiles, multiprocessors(ctx));
  check_cuda(cudaFuncSetAttribute(convolution_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
             "cannot reserve shared memory");
  convolution_kernel<<<static_cast<unsigned>(blocks), kThreads, kSharedBytes, ctx.stream().handle()>>>(
      tensor_map({.data = x.bytes(),
                  .planes = x.shape()[0],
                  .rows = x.shape()[1],
                  .columns = in,
                  .tile_planes = kTileHeight + reach,
                  .tile_rows = kTileWidth + reach,
                  .tile_columns = kBlockChannels}),
      tensor_map({.data = filter.weights,
                  .planes = kernel * kernel,
                  .rows = phases * outs,
                  .columns = in,
                  .row_stride = kernel * kernel * in,
                  .plane_stride = in,
                  .tile_rows = kTileOuts,
                  .tile_columns = kBlockChannels}),
      outputs, filter.bias, accumulate, grid);
  check_launch("convolution");
}

}  // namespace nostos::cuda
