// Implements row normalisations: a block keeps a row in registers and its factors across rows.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/norm.h"

namespace nostos::ops {

using namespace cuda;
namespace {

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
template <int V, int K>
struct RowPart {
  float values[K][V];

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
  /// Multiplies by `row`, which may be null.
  __device__ void scale_by(const float* row, int channels) {
    if (row == nullptr) return;
    const RowPart other(row, channels);
    each([&](int k, int i) { values[k][i] *= other.values[k][i]; });
  }
  /// \return the sum over the row's channels of (value - mean)^2. \param partial as block_sum
  __device__ float squares(float mean, int channels, float* partial) const {
    float sum = 0;
    each([&](int k, int i) {
      const float centred = channel_of<V>(k) < channels ? values[k][i] - mean : 0.f;
      sum += centred * centred;
    });
    return block_sum(sum, partial);
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

/// The norm after the sum; Out is void for none.
template <class Out>
struct Next {
  const float* weight;  // null: the sum itself
  const float* scale;
  Out* out;

  /// Multiplies a row's factors together. \param any row of factors, which is read where there are none
  template <class Row>
  __device__ Row factors(const float* any, int channels) const {
    Row made(std::is_void_v<Out> || weight == nullptr ? any : weight, channels);
    if constexpr (!std::is_void_v<Out>) made.scale_by(scale, channels);
    return made;
  }
  template <class Row>
  __device__ void make(Row& sum, const Row& factors, float eps, int64_t row, int channels, float* partial) const {
    if constexpr (!std::is_void_v<Out>) {
      if (weight != nullptr) {
        const float inverse = 1.f / sqrtf(sum.squares(0, channels, partial) / static_cast<float>(channels) + eps);
        sum.each([&](int k, int i) { sum.values[k][i] = sum.values[k][i] * inverse * factors.values[k][i]; });
      }
      sum.write(out + row * channels, channels);
    }
  }
};

template <class In, class Out, int V, int K>
__global__ void __launch_bounds__(kRowThreads, row_blocks(K, !std::is_void_v<Out>))
    add_gated_rms_norm_kernel(const In* projected, const float* weight, const float* gate, float eps, int64_t rows,
                              int channels, float* x, Next<Out> next) {
  __shared__ float partial[2][2][kMaxWarps];
  RowPart<V, K> factors(weight, channels);
  factors.scale_by(gate, channels);
  const auto next_factors = next.template factors<RowPart<V, K>>(weight, channels);
  RawPart<In, V, K> ahead;
  ahead.load(projected + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RawPart<float, V, K> before;  // on its way during the sum
    before.load(x + r * channels, channels, true);
    const RowPart<V, K> row(ahead);
    ahead.load(projected + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    const float inverse =
        1.f / sqrtf(row.squares(0, channels, partial[parity][0]) / static_cast<float>(channels) + eps);
    RowPart<V, K> sum(before);
    sum.each([&](int k, int i) { sum.values[k][i] += row.values[k][i] * inverse * factors.values[k][i]; });
    sum.write(x + r * channels, channels);
    next.make(sum, next_factors, eps, r, channels, partial[parity][1]);
  }
}

/// x += gate * (projected + bias), then the next norm.
template <class In, class Out, int V, int K>
__global__ void __launch_bounds__(kRowThreads, row_blocks(K, true))
    add_gated_kernel(const In* projected, const float* bias, const float* gate, float eps, int64_t rows, int channels,
                     float* x, Next<Out> next) {
  __shared__ float partial[2][kMaxWarps];
  const RowPart<V, K> biases(bias, channels), gates(gate, channels);
  const auto next_factors = next.template factors<RowPart<V, K>>(gate, channels);
  RawPart<In, V, K> ahead;
  ahead.load(projected + blockIdx.x * static_cast<int64_t>(channels), channels, true);
  int parity = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x, parity ^= 1) {
    RowPart<V, K> sum(x + r * channels, channels);
    const RowPart<V, K> row(ahead);
    ahead.load(projected + (r + gridDim.x) * channels, channels, r + gridDim.x < rows);
    sum.each([&](int k, int i) { sum.values[k][i] += gates.values[k][i] * (row.values[k][i] + biases.values[k][i]); });
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
  with_elements(next.out, [&]<class Out>(Out* out) {
    body(Next<Out>{optional_data<float>(next.weight), optional_data<float>(next.scale), out});
  });
}

}  // namespace

void run(OnCuda<add_gated_rms_norm>, Context& ctx, ConstView projected, const GatedNorm& norm, View x,
         const NextNorm& next) {
  const float* w = norm.weight.data<float>();
  const float* g = optional_data<float>(norm.gate);
  float* to = x.data<float>();
  with_elements(projected, [&]<class In>(const In* in) {
    const auto run = [&]<class Out>(const Next<Out>& following) {
      with_row_launch(ctx, x.shape(), !std::is_void_v<Out>, [&](const RowLaunch& launch, auto v, auto k) {
        check(v == 1 || (is_aligned(in, w, g, to) && is_aligned(following.weight, following.scale, next.out.bytes())),
              "rows of whole vectors begin at 16 bytes");
        add_gated_rms_norm_kernel<In, Out, v, k><<<launch.blocks, launch.threads, 0, ctx.stream().handle()>>>(
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
      with_row_launch(ctx, x.shape(), true, [&](const RowLaunch& launch, auto v, auto k) {
        check(v == 1 ||
                  (is_aligned(in, bias, gate, to) && is_aligned(following.weight, following.scale, next.out.bytes())),
              "rows of whole vectors begin at 16 bytes");
        add_gated_kernel<In, Out, v, k><<<launch.blocks, launch.threads, 0, ctx.stream().handle()>>>(
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
