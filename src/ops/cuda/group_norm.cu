// Implements GroupNorm: float64 sums of each image row, added in one order whoever holds the rows; then one pass that
// applies them.
#include "device/buffer.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/norm.h"

namespace nostos::ops {

using namespace cuda;
namespace {

constexpr int kMaxChannels = 4096;

/// Factor and offset of each channel of the image being normalised.
struct ChannelFactors {
  explicit ChannelFactors(Context& ctx) : memory(ctx.device(), 2 * kMaxChannels * sizeof(float)) {}
  float* factors() const { return reinterpret_cast<float*>(memory.data()); }
  float* offsets() const { return factors() + kMaxChannels; }
  Buffer memory;
};

struct Sums {
  double sum = 0, square = 0;
  __device__ void add(const Sums& other) {
    sum += other.sum;
    square += other.square;
  }
};

constexpr int kPixelsAhead = 4;  // that a thread has on their way at once

/// Adds the channels of some pixels: in float64; of bf16 pixels first those few in float32, whose 24 bits hold squares
/// of 16 (such sums are exact but for the last bits of elements far apart, and err less than the elements' own
/// rounding).
template <class In, int V>
__device__ inline void add_pixels(const Raw<In, V> (&raw)[kPixelsAhead], Sums (&sums)[V]) {
  using Term = std::conditional_t<sizeof(In) == 4, double, float>;
  Term sum[V] = {}, square[V] = {};
#pragma unroll
  for (const Raw<In, V>& pixel : raw) {
    float values[V];
    pixel.unpack(values);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const Term value = values[i];
      sum[i] += value;
      square[i] += value * value;
    }
  }
#pragma unroll
  for (int i = 0; i < V; ++i) sums[i].add({static_cast<double>(sum[i]), static_cast<double>(square[i])});
}

constexpr int kSumBlocks = 5;  // that a multiprocessor holds at once
static_assert(fits_every_gpu(kBlockThreads, kBlockThreads* kVector* int64_t{sizeof(Sums)}, kSumBlocks));

/// Block (b, y) sums row y of block_groups groups from b * block_groups: each thread its channels over its pixels, then
/// pixels in order, then channels in order.
template <class In, int V>
__global__ void __launch_bounds__(kBlockThreads, kSumBlocks)
    row_sums_kernel(const In* x, int width, int channels, int groups, int block_groups, int lanes, int pixels,
                    Sums* sums) {
  __shared__ Sums parts[kBlockThreads * V];
  const int group_width = channels / groups, first_group = static_cast<int>(blockIdx.x) * block_groups;
  const int count = min(block_groups, groups - first_group), block_channels = count * group_width;
  const int lane = static_cast<int>(threadIdx.x) % lanes, pixel = static_cast<int>(threadIdx.x) / lanes;
  const int64_t row = blockIdx.y;
  if (lane * V < block_channels) {
    Sums mine[V];
    const In* from = x + row * width * channels + first_group * group_width + lane * V;
    for (int p = pixel; p < width; p += pixels * kPixelsAhead) {
      Raw<In, V> raw[kPixelsAhead];
#pragma unroll
      for (int ahead = 0; ahead < kPixelsAhead; ++ahead) {
        const int at = p + ahead * pixels;
        raw[ahead].clear();
        if (at < width) raw[ahead].load(from + static_cast<int64_t>(at) * channels);
      }
      add_pixels(raw, mine);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) parts[(pixel * lanes + lane) * V + i] = mine[i];
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < block_channels; c += static_cast<int>(blockDim.x)) {
    Sums channel = parts[c];
    for (int p = 1; p < pixels; ++p) channel.add(parts[p * lanes * V + c]);
    parts[c] = channel;
  }
  __syncthreads();
  for (int g = static_cast<int>(threadIdx.x); g < count; g += static_cast<int>(blockDim.x)) {
    Sums group;
    for (int c = g * group_width; c < (g + 1) * group_width; ++c) group.add(parts[c]);
    sums[row * groups + first_group + g] = group;
  }
}

/// Block g turns the sums of all rows of group g into its channels' factors and offsets.
__global__ void __launch_bounds__(kBlockThreads)
    factors_kernel(const Sums* sums, int64_t height, int64_t row_pixels, int channels, int groups, const float* weight,
                   const float* bias, double eps, float* factors, float* offsets) {
  __shared__ double partial[2][kBlockThreads / 32];
  const int g = static_cast<int>(blockIdx.x), group_width = channels / groups;
  Sums mine;
  for (int64_t y = threadIdx.x; y < height; y += blockDim.x) mine.add(sums[y * groups + g]);
  const double sum = block_sum(mine.sum, partial[0]), square = block_sum(mine.square, partial[1]);
  const double pixels = static_cast<double>(height) * static_cast<double>(row_pixels) * group_width;
  const double mean = sum / pixels, inverse = 1.0 / sqrt(fmax(square / pixels - mean * mean, 0.0) + eps);
  for (int c = g * group_width + static_cast<int>(threadIdx.x); c < (g + 1) * group_width;
       c += static_cast<int>(blockDim.x)) {
    factors[c] = static_cast<float>(inverse * static_cast<double>(weight[c]));
    offsets[c] = static_cast<float>(static_cast<double>(bias[c]) - mean * inverse * static_cast<double>(weight[c]));
  }
}

constexpr int kPixelsAThread = 8;

/// Thread (x, y) of block (b, l) has vector l * lanes + x of kPixelsAThread pixels, each blockDim.y further.
template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads) apply_kernel(const In* x, const float* factors, const float* offsets,
                                                              bool silu, int64_t pixels, int channels, Out* out) {
  const int channel = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * V;
  if (channel >= channels) return;
  float factor[V], offset[V];
  load<V>(factors + channel, factor);
  load<V>(offsets + channel, offset);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y * kPixelsAThread + threadIdx.y;
  constexpr int kAhead = 4;
#pragma unroll
  for (int base = 0; base < kPixelsAThread; base += kAhead) {
    Raw<In, V> raw[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t pixel = first + (base + i) * static_cast<int>(blockDim.y);
      if (pixel < pixels) raw[i].load(x + pixel * channels + channel);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t pixel = first + (base + i) * static_cast<int>(blockDim.y);
      if (pixel >= pixels) return;
      float values[V];
      raw[i].unpack(values);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float y = values[j] * factor[j] + offset[j];
        values[j] = silu ? silu_of<Out>(y) : y;
      }
      store<V>(values, out + pixel * channels + channel);
    }
  }
}

}  // namespace

void run(OnCuda<group_norm_row_sums>, Context& ctx, ConstView x, View sums) {
  const int64_t height = x.shape()[0], width = x.shape()[1], channels = x.shape()[2], groups = sums.shape()[1];
  if (height == 0) return;
  const GroupSumsLaunch launch = group_sums_launch(channels, groups);
  with_elements(x, [&]<class In>(const In* in) {
    const dim3 grid(static_cast<unsigned>(launch.blocks_a_row), static_cast<unsigned>(height));
    const auto run = [&](auto v) {
      check(v == 1 || is_aligned(in), "images of whole vectors begin at 16 bytes");
      row_sums_kernel<In, v><<<grid, launch.threads(), 0, ctx.stream().handle()>>>(
          in, static_cast<int>(width), static_cast<int>(channels), static_cast<int>(groups), launch.block_groups,
          launch.lanes, launch.pixels, reinterpret_cast<Sums*>(sums.data<double>()));
      check_launch("group_norm_row_sums");
    };
    if (launch.vector == 1)
      run(std::integral_constant<int, 1>{});
    else
      run(std::integral_constant<int, 4>{});
  });
}

void run(OnCuda<group_norm_apply>, Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, const GroupNorm& norm,
         View out) {
  const int64_t channels = x.shape()[2], total_height = sums.shape()[0], groups = sums.shape()[1];
  check(channels <= kMaxChannels, "the CUDA kernels normalise images of up to 4096 channels");
  if (x.elements() == 0) return;
  const ChannelFactors& scratch = ctx.state<ChannelFactors>();
  factors_kernel<<<static_cast<unsigned>(groups), kBlockThreads, 0, ctx.stream().handle()>>>(
      reinterpret_cast<const Sums*>(sums.data<double>()), total_height, row_pixels, static_cast<int>(channels),
      static_cast<int>(groups), norm.weight.data<float>(), norm.bias.data<float>(), static_cast<double>(norm.eps),
      scratch.factors(), scratch.offsets());
  check_launch("group_norm_factors");
  const GroupApplyLaunch launch = group_apply_launch(channels);
  const int64_t pixels = x.elements() / channels, block_vectors = int64_t{launch.lanes} * launch.vector;
  const dim3 block(static_cast<unsigned>(launch.lanes), static_cast<unsigned>(launch.pixels));
  const dim3 grid(static_cast<unsigned>((pixels - 1) / (launch.pixels * kPixelsAThread) + 1),
                  static_cast<unsigned>((channels - 1) / block_vectors + 1));
  with_elements(x, [&]<class In>(const In* in) {
    with_elements(out, [&]<class Out>(Out* to) {
      with_vector(launch.vector == kVector, [&](auto v) {
        check(v == 1 || is_aligned(in, to), "images of whole vectors begin at 16 bytes");
        apply_kernel<In, Out, v><<<grid, block, 0, ctx.stream().handle()>>>(
            in, scratch.factors(), scratch.offsets(), norm.silu, pixels, static_cast<int>(channels), to);
        check_launch("group_norm_apply");
      });
    });
  });
}

}  // namespace nostos::ops
