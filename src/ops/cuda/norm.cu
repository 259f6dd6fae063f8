// Implements row normalisations: a block keeps a row in registers and its factors across rows.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/rounding.cuh"
#include "ops/device_op.h"
#include "ops/norm.h"

namespace nostos::ops {

using namespace cuda;
namespace {

using Rotation = WarpRotation<true>;

constexpr int kMaxWarps = kRowThreads / 32;

/// \return the first channel of group k of this thread's part of a row.
template <int V>
__device__ inline int channel_of(int k) {
  return V * (static_cast<int>(threadIdx.x) + k * static_cast<int>(blockDim.x));
}

/// A thread's part of a row as it lies in memory, so that the next row is on its way while this one is worked on.
template <class T, int V, int K>
struct RawPart {
  Raw<T, V> groups[K];

  __device__ void load(const T* row, int channels, bool present) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (present && channel_of<V>(k) < channels)
        groups[k].load(row + channel_of<V>(k));
      else
        groups[k].clear();
    }
  }
};

/// The same in float32; zero beyond the row's end.
/// \param kTurns whether a warp has whole rotations of 256, one in each group: where rows are rounded. Sums over the
/// row are then those of a block that has a warp for each, bit for bit: rows that are not rounded are normalised by
/// such.
template <int V, int K, bool kTurns = false>
struct RowPart {
  float values[K][V];

  __device__ RowPart() {}
  template <class T>
  __device__ explicit RowPart(const RawPart<T, V, K>& raw) {
#pragma unroll
    for (int k = 0; k < K; ++k) raw.groups[k].unpack(values[k]);
  }
  template <class T>
  __device__ RowPart(const T* row, int channels) {
    RawPart<T, V, K> raw;
    raw.load(row, channels, true);
    *this = RowPart(raw);
  }
  template <class T>
  __device__ void write(T* row, int channels) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (channel_of<V>(k) < channels) store<V>(values[k], row + channel_of<V>(k));
    }
  }
  template <class Body>
  __device__ static void each(const Body& body) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < V; ++i) body(k, i);
    }
  }
  template <class Body>
  __device__ static void each_quad(const Body& body) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < V; i += 4) body(k, i, (k * V + i) / 4);
    }
  }
  /// Multiplies by `row`, which may be null.
  __device__ void scale_by(const float* row, int channels) {
    if (row == nullptr) return;
    const RowPart other(row, channels);
    each([&](int k, int i) { values[k][i] *= other.values[k][i]; });
  }
  /// \return the sum over the row's channels of (value - mean)^2. \param partial as block_sum
  __device__ float squares(float mean, int channels, float* partial) const {
    float sums[kTurns ? K : 1] = {};
    each([&](int k, int i) {
      const float centred = channel_of<V>(k) < channels ? values[k][i] - mean : 0.f;
      sums[kTurns ? k : 0] += centred * centred;
    });
    if constexpr (kTurns)
      return sum_of_turns(sums, channels, partial);
    else
      return block_sum(sums[0], partial);
  }

 private:
  __device__ static float sum_of_turns(const float (&sums)[K], int channels, float* partial) {
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const float of_warp = lane_sum(sums[k], 32);
      if (threadIdx.x % 32 == 0) partial[warp + k * warps] = of_warp;
    }
    __syncthreads();
    float sum = 0;
    for (int turn = 0; turn < channels / (32 * V); ++turn) sum += partial[turn];
    return sum;
  }
};

/// A thread's part of a row of factors, in registers.
template <class Part>
struct Factors {
  Part part;

  __device__ Factors(const Part& made, int) : part(made) {}
  __device__ const Part& operator()() const { return part; }
};

/// The same where rows are rounded, which wants the registers: in shared memory, each thread's words for itself.
/// \param which of the block's rows of factors
template <int V, int K>
struct Factors<RowPart<V, K, true>> {
  using Part = RowPart<V, K, true>;
  float4* quads;

  __device__ Factors(const Part& made, int which) {
    extern __shared__ float turned_of_warps[];
    const int threads = static_cast<int>(blockDim.x), rotated = threads / 32 * Rotation::kFloats;
    quads = reinterpret_cast<float4*>(turned_of_warps + rotated + which * V * K * threads) + threadIdx.x;
    Part::each_quad([&](int k, int i, int quad) {
      quads[quad * threads] = {made.values[k][i], made.values[k][i + 1], made.values[k][i + 2], made.values[k][i + 3]};
    });
  }
  __device__ Part operator()() const {
    Part read;
    Part::each_quad([&](int k, int i, int quad) {
      const float4 words = quads[quad * static_cast<int>(blockDim.x)];
      read.values[k][i] = words.x, read.values[k][i + 1] = words.y;
      read.values[k][i + 2] = words.z, read.values[k][i + 3] = words.w;
    });
    return read;
  }
};

/// Blocks that must fit on a multiprocessor at once.
constexpr int row_blocks(int groups, bool two_norms = false) {
  return row_resident_threads(groups, two_norms) / kRowThreads;
}
static_assert(fits_every_gpu(kRowThreads, 4 * kMaxWarps * int64_t{sizeof(float)}, row_blocks(1)));

template <class Out, int V, int K>
__global__ void __launch_bounds__(kRowThreads, row_blocks(K))
    rms_norm_kernel(const float* x, const float* weight, const float* scale, float eps, int64_t rows, int channels,
                    Out* out) {
  __shared__ float partial[2][kMaxWarps];
  RowPart<V, K> factors(weight, channels);
  factors.scale_by(scale, channels);
  RawPart<float, V, K> ahead;
  ahead.load(x + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RowPart<V, K> row(ahead);
    ahead.load(x + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    const float inverse = 1.f / sqrtf(row.squares(0, channels, partial[parity]) / static_cast<float>(channels) + eps);
    row.each([&](int k, int i) { row.values[k][i] = row.values[k][i] * inverse * factors.values[k][i]; });
    row.write(out + r * channels, channels);
  }
}

template <class Out, int V, int K>
__global__ void __launch_bounds__(kRowThreads, row_blocks(K))
    layer_norm_kernel(const float* x, const float* scale, float eps, int64_t rows, int channels, Out* out) {
  __shared__ float partial[2][2][kMaxWarps];
  const RowPart<V, K> factors(scale, channels);
  RawPart<float, V, K> ahead;
  ahead.load(x + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RowPart<V, K> row(ahead);
    ahead.load(x + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    float sum = 0;
    row.each([&](int k, int i) { sum += row.values[k][i]; });
    const float mean = block_sum(sum, partial[parity][0]) / static_cast<float>(channels);
    const float squares = row.squares(mean, channels, partial[parity][1]);
    const float inverse = 1.f / sqrtf(squares / static_cast<float>(channels) + eps);
    row.each([&](int k, int i) { row.values[k][i] = (row.values[k][i] - mean) * inverse * factors.values[k][i]; });
    row.write(out + r * channels, channels);
  }
}

/// Threads of a block that makes a norm of Out at most, and blocks that must fit on a multiprocessor at once.
template <class Out>
constexpr bool kRounds = std::is_same_v<Out, int8_t>;
constexpr int next_threads(bool rounds) { return rounds ? kRoundedThreads : kRowThreads; }
constexpr int next_blocks(bool rounds, int groups, bool two_norms) {
  return rounds ? kRoundedBlocks : row_blocks(groups, two_norms);
}

/// The norm after the sum; Out is void for none, and int8_t for one that is rounded.
template <class Out>
struct Next {
  const float* weight;  // null: the sum itself
  const float* scale;
  Out* out;
  float* scales;  // of rounded rows

  /// Multiplies a row's factors together. \param any row of factors, which is read where there are none
  template <class Row>
  __device__ Row factors(const float* any, int channels) const {
    Row made(std::is_void_v<Out> || weight == nullptr ? any : weight, channels);
    if constexpr (!std::is_void_v<Out>) made.scale_by(scale, channels);
    return made;
  }
  template <class Row>
  __device__ void make(Row& sum, const Factors<Row>& factors, float eps, int64_t row, int channels,
                       float* partial) const {
    if constexpr (!std::is_void_v<Out>) {
      if (weight != nullptr) {
        const float inverse = 1.f / sqrtf(sum.squares(0, channels, partial) / static_cast<float>(channels) + eps);
        const Row& by = factors();
        sum.each([&](int k, int i) { sum.values[k][i] = sum.values[k][i] * inverse * by.values[k][i]; });
      }
      if constexpr (kRounds<Out>)
        round(sum, row, channels);
      else
        sum.write(out + row * channels, channels);
    }
  }

  /// Writes the row, which is in RowPart<kVector, kRoundedGroups>, in 8 bits, from numbers in bf16. A warp has a
  /// rotation in each group, a thread half a unit of each: two lanes change halves, so that each has a whole one.
  /// Between two calls all threads meet in make()'s sum: one array of partial results will do.
  template <class Row>
  __device__ void round(const Row& normed, int64_t row, int channels) const {
    extern __shared__ float turned_of_warps[];
    __shared__ uint32_t largest_of_warp[kMaxWarps];
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
    const Rotation rotation(turned_of_warps + warp * Rotation::kFloats);
    const bool second = rotation.which == 1;
    Raw<bfloat16, kRoundedUnit> unit;
    constexpr int kHalf = kVector / 2;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const auto words = [&](int k) { return pack_bf16(normed.values[k][2 * i], normed.values[k][2 * i + 1]); };
      const uint32_t of_first = words(0), of_second = words(1);
      const uint32_t other = __shfl_xor_sync(kAllLanes, second ? of_first : of_second, 1);
      unit.words[i] = second ? other : of_first;
      unit.words[kHalf + i] = second ? of_second : other;
    }
    float values[kRoundedUnit];
    unit.unpack(values);
    rotation.rotate(values);
    const auto rounded = RowRounding::of<Rotation::kLarger>(block_largest(largest_magnitude(values), largest_of_warp));
    if (threadIdx.x == 0) scales[row] = rounded.scale;
    const int64_t block = warp + (second ? warps : 0), words_of_block = ops::kWideRotation / 4;
    rotation.write(values, rounded, reinterpret_cast<uint32_t*>(out + row * channels) + block * words_of_block,
                   block * ops::kWideRotation < channels);
  }
};

template <class In, class Out, int V, int K>
__global__ void __launch_bounds__(next_threads(kRounds<Out>), next_blocks(kRounds<Out>, K, !std::is_void_v<Out>))
    add_gated_rms_norm_kernel(const In* projected, const float* weight, const float* gate, float eps, int64_t rows,
                              int channels, float* x, Next<Out> next) {
  using Part = RowPart<V, K, kRounds<Out>>;
  __shared__ float partial[2][2][kMaxWarps];
  Part gated(weight, channels);
  gated.scale_by(gate, channels);
  const Factors<Part> factors(gated, 0), next_factors(next.template factors<Part>(weight, channels), 1);
  RawPart<In, V, K> ahead;
  ahead.load(projected + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RawPart<float, V, K> before;  // on its way during the sum
    before.load(x + r * channels, channels, true);
    const Part row(ahead);
    ahead.load(projected + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    const float inverse =
        1.f / sqrtf(row.squares(0, channels, partial[parity][0]) / static_cast<float>(channels) + eps);
    Part sum(before);
    const Part& by = factors();
    sum.each([&](int k, int i) { sum.values[k][i] += row.values[k][i] * inverse * by.values[k][i]; });
    sum.write(x + r * channels, channels);
    next.make(sum, next_factors, eps, r, channels, partial[parity][1]);
  }
}

/// x += gate * (projected + bias), then the next norm.
template <class In, class Out, int V, int K>
__global__ void __launch_bounds__(next_threads(kRounds<Out>), next_blocks(kRounds<Out>, K, true))
    add_gated_kernel(const In* projected, const float* bias, const float* gate, float eps, int64_t rows, int channels,
                     float* x, Next<Out> next) {
  using Part = RowPart<V, K, kRounds<Out>>;
  __shared__ float partial[2][kMaxWarps];
  const Factors<Part> biases(Part(bias, channels), 0), gates(Part(gate, channels), 1),
      next_factors(next.template factors<Part>(gate, channels), 2);
  RawPart<In, V, K> ahead;
  ahead.load(projected + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    Part sum(x + r * channels, channels);
    const Part row(ahead);
    ahead.load(projected + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    const Part &biased = biases(), &by = gates();
    sum.each([&](int k, int i) { sum.values[k][i] += by.values[k][i] * (row.values[k][i] + biased.values[k][i]); });
    sum.write(x + r * channels, channels);
    next.make(sum, next_factors, eps, r, channels, partial[parity]);
  }
}

/// What is added to a row before its norm; In is void for nothing.
template <class In>
struct Added {
  const In* projected;
  const float* gate;
};

/// x += gate * projected, then out = (1 + scale) * layer_norm(x) + shift; Out is void for no norm.
template <class In, class Out, int V, int K>
__global__ void __launch_bounds__(kRowThreads, row_blocks(K, true))
    adaptive_norm_kernel(Added<In> added, const float* scale, const float* shift, float eps, int64_t rows, int channels,
                         float* x, Out* out) {
  constexpr bool kAdds = !std::is_void_v<In>, kNorms = !std::is_void_v<Out>;
  __shared__ float partial[2][2][kMaxWarps];
  RowPart<V, K> gates(kAdds ? added.gate : scale, channels), factors(kNorms ? scale : added.gate, channels),
      shifts(kNorms ? shift : added.gate, channels);
  factors.each([&](int k, int i) { factors.values[k][i] = 1.f + factors.values[k][i]; });
  RawPart<float, V, K> ahead;
  ahead.load(x + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RowPart<V, K> row(ahead);
    ahead.load(x + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    if constexpr (kAdds) {
      const RowPart<V, K> projected(added.projected + r * channels, channels);
      row.each([&](int k, int i) { row.values[k][i] += gates.values[k][i] * projected.values[k][i]; });
      row.write(x + r * channels, channels);
    }
    if constexpr (kNorms) {
      float sum = 0;
      row.each([&](int k, int i) { sum += row.values[k][i]; });
      const float mean = block_sum(sum, partial[parity][0]) / static_cast<float>(channels);
      const float squares = row.squares(mean, channels, partial[parity][1]);
      const float inverse = 1.f / sqrtf(squares / static_cast<float>(channels) + eps);
      row.each([&](int k, int i) {
        row.values[k][i] = factors.values[k][i] * ((row.values[k][i] - mean) * inverse) + shifts.values[k][i];
      });
      row.write(out + r * channels, channels);
    }
  }
}

/// \return bytes of shared memory in which a block rotates rows and keeps `factors` rows of factors.
template <class Out>
constexpr int rounding_bytes(int threads, int factors) {
  const int floats = threads / 32 * Rotation::kFloats + threads * factors * kVector * kRoundedGroups;
  return kRounds<Out> ? floats * int{sizeof(float)} : 0;
}
static_assert(fits_every_gpu(kRoundedThreads, rounding_bytes<int8_t>(kRoundedThreads, 3) + 1024));

/// Has a kernel of rounding_bytes() launched with more of them than kernels have unasked.
template <class Kernel>
void allow_rounding_bytes(Kernel* kernel, int bytes) {
  if (bytes > 0)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "rounding norms");
}

/// Calls body(launch, V, K) with the row launch's constants.
template <class Body>
void with_row_launch(const Context& ctx, const Shape& shape, bool two_norms, const Body& body) {
  if (shape.elements() == 0) return;
  const RowLaunch launch = row_launch(shape[0], shape[1], multiprocessors(ctx), two_norms);
  with_vector(launch.vector == kVector, [&](auto vector) {
    if (launch.groups == 1)
      body(launch, vector, std::integral_constant<int, 1>{});
    else if (launch.groups == 2)
      body(launch, vector, std::integral_constant<int, 2>{});
    else
      body(launch, vector, std::integral_constant<int, 4>{});
  });
}

/// The same of a kernel that makes a norm of Out beside another one, or of a sum.
template <class Out, class Body>
void with_next_launch(const Context& ctx, const Shape& shape, bool two_norms, const Body& body) {
  if constexpr (kRounds<Out>) {
    if (shape.elements() == 0) return;
    body(rounded_row_launch(shape[0], shape[1], multiprocessors(ctx)), std::integral_constant<int, kVector>{},
         std::integral_constant<int, kRoundedGroups>{});
  } else {
    with_row_launch(ctx, shape, two_norms, body);
  }
}

}  // namespace

void run(OnCuda<rms_norm>, Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out) {
  const float* in = x.data<float>();
  const float* w = weight.data<float>();
  const float* s = optional_data<float>(scale);
  with_elements(out, [&]<class Out>(Out* to) {
    with_row_launch(ctx, x.shape(), false, [&](const RowLaunch& launch, auto v, auto k) {
      check(v == 1 || is_aligned(in, w, s, to), "rows of whole vectors begin at 16 bytes");
      rms_norm_kernel<Out, v, k><<<launch.blocks, launch.threads, 0, ctx.stream().handle()>>>(
          in, w, s, eps, x.shape()[0], static_cast<int>(x.shape()[1]), to);
      check_launch("rms_norm");
    });
  });
}

void run(OnCuda<layer_norm_scaled>, Context& ctx, ConstView x, ConstView scale, float eps, View out) {
  const float* in = x.data<float>();
  const float* s = scale.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    with_row_launch(ctx, x.shape(), false, [&](const RowLaunch& launch, auto v, auto k) {
      check(v == 1 || is_aligned(in, s, to), "rows of whole vectors begin at 16 bytes");
      layer_norm_kernel<Out, v, k><<<launch.blocks, launch.threads, 0, ctx.stream().handle()>>>(
          in, s, eps, x.shape()[0], static_cast<int>(x.shape()[1]), to);
      check_launch("layer_norm_scaled");
    });
  });
}

namespace {

/// Calls body(Next<Out>).
template <class Body>
void with_next(const NextNorm& next, const Body& body) {
  if (!next.out) return body(Next<void>{});
  const auto run = [&]<class Out>(Out* out, float* scales) {
    body(Next<Out>{optional_data<float>(next.weight), optional_data<float>(next.scale), out, scales});
  };
  if (next.scales) return run(next.out.data<int8_t>(), next.scales.data<float>());
  with_elements(next.out, [&](auto* out) { run(out, nullptr); });
}

}  // namespace

void run(OnCuda<add_gated_rms_norm>, Context& ctx, ConstView projected, const GatedNorm& norm, View x,
         const NextNorm& next) {
  const float* w = norm.weight.data<float>();
  const float* g = optional_data<float>(norm.gate);
  float* to = x.data<float>();
  with_elements(projected, [&]<class In>(const In* in) {
    const auto run = [&]<class Out>(const Next<Out>& following) {
      with_next_launch<Out>(ctx, x.shape(), !std::is_void_v<Out>, [&](const RowLaunch& launch, auto v, auto k) {
        check(v == 1 || (is_aligned(in, w, g, to) && is_aligned(following.weight, following.scale, next.out.bytes())),
              "rows of whole vectors begin at 16 bytes");
        const int shared = rounding_bytes<Out>(launch.threads, 2);
        allow_rounding_bytes(add_gated_rms_norm_kernel<In, Out, v, k>, shared);
        add_gated_rms_norm_kernel<In, Out, v, k><<<launch.blocks, launch.threads, shared, ctx.stream().handle()>>>(
            in, w, g, norm.eps, x.shape()[0], static_cast<int>(x.shape()[1]), to, following);
        check_launch("add_gated_rms_norm");
      });
    };
    with_next(next, run);
  });
}

void run(OnCuda<add_gated>, Context& ctx, ConstView projected, const GatedBias& by, View x, const NextNorm& next) {
  const float* bias = by.bias.data<float>();
  const float* gate = by.gate.data<float>();
  float* to = x.data<float>();
  with_elements(projected, [&]<class In>(const In* in) {
    with_next(next, [&]<class Out>(const Next<Out>& following) {
      with_next_launch<Out>(ctx, x.shape(), true, [&](const RowLaunch& launch, auto v, auto k) {
        check(v == 1 ||
                  (is_aligned(in, bias, gate, to) && is_aligned(following.weight, following.scale, next.out.bytes())),
              "rows of whole vectors begin at 16 bytes");
        const int shared = rounding_bytes<Out>(launch.threads, 3);
        allow_rounding_bytes(add_gated_kernel<In, Out, v, k>, shared);
        add_gated_kernel<In, Out, v, k><<<launch.blocks, launch.threads, shared, ctx.stream().handle()>>>(
            in, bias, gate, by.eps, x.shape()[0], static_cast<int>(x.shape()[1]), to, following);
        check_launch("add_gated");
      });
    });
  });
}

namespace {

template <class In, class Out>
void launch_adaptive_norm(Context& ctx, Added<In> added, const AdaptiveNorm& norm, View x, Out* out) {
  const float* scale = optional_data<float>(norm.scale);
  const float* shift = optional_data<float>(norm.shift);
  float* to = x.data<float>();
  with_row_launch(ctx, x.shape(), true, [&](const RowLaunch& launch, auto v, auto k) {
    check(v == 1 || is_aligned(scale, shift, added.projected, added.gate, to, out),
          "rows of whole vectors begin at 16 bytes");
    adaptive_norm_kernel<In, Out, v, k><<<launch.blocks, launch.threads, 0, ctx.stream().handle()>>>(
        added, scale, shift, norm.eps, x.shape()[0], static_cast<int>(x.shape()[1]), to, out);
    check_launch("adaptive_norm");
  });
}

}  // namespace

void run(OnCuda<adaptive_layer_norm>, Context& ctx, ConstView x, const AdaptiveNorm& norm, View out) {
  // Nothing is added, so that x is only read.
  const View in(const_cast<std::byte*>(x.bytes()), x.dtype(), x.shape());
  with_elements(out, [&]<class Out>(Out* to) { launch_adaptive_norm(ctx, Added<void>{}, norm, in, to); });
}

void run(OnCuda<add_gated_adaptive_norm>, Context& ctx, ConstView projected, ConstView gate, View x,
         const AdaptiveNorm& next, View out) {
  with_elements(projected, [&]<class In>(const In* in) {
    const Added<In> added{in, gate.data<float>()};
    if (!out) return launch_adaptive_norm(ctx, added, next, x, static_cast<void*>(nullptr));
    with_elements(out, [&]<class Out>(Out* to) { launch_adaptive_norm(ctx, added, next, x, to); });
  });
}

}  // namespace nostos::ops
