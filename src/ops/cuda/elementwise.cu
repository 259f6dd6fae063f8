// Implements element-wise ops: one thread a vector of elements.
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/device_op.h"
#include "ops/elementwise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

__device__ int64_t this_item() { return static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x; }

template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads)
    silu_mul_kernel(const In* gate_up, int64_t vectors, int row_vectors, Out* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  const int64_t row = item / row_vectors;
  const In* gate_at = gate_up + (item + row * row_vectors) * V;
  float gate[V], up[V];
  load<V>(gate_at, gate);
  load<V>(gate_at + static_cast<int64_t>(row_vectors) * V, up);
#pragma unroll
  for (int i = 0; i < V; ++i) gate[i] = silu_of<Out>(gate[i]) * up[i];
  store<V>(gate, out + item * V);
}

template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads) silu_kernel(const In* x, int64_t vectors, Out* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
  load<V>(x + item * V, values);
#pragma unroll
  for (float& value : values) value = silu_of<Out>(value);
  store<V>(values, out + item * V);
}

__global__ void __launch_bounds__(kBlockThreads) finish_modulation_kernel(float* x, int64_t elements, int channels) {
  const int64_t item = this_item();
  if (item >= elements) return;
  const bool is_gate = item / channels % 2 == 1;
  x[item] = is_gate ? tanhf(x[item]) : 1.f + x[item];
}

template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads) add_kernel(const In* x, int64_t vectors, Out* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kBlockThreads + threadIdx.x;
  if (i >= vectors) return;
  float added[V], sums[V];
  load<V>(x + i * V, added);
  load<V>(y + i * V, sums);
#pragma unroll
  for (int j = 0; j < V; ++j) sums[j] += added[j];
  store<V>(sums, y + i * V);
}

__global__ void __launch_bounds__(kBlockThreads) add_scalar_kernel(float* x, float value, int64_t elements) {
  const int64_t item = this_item();
  if (item < elements) x[item] += value;
}

template <class In, class Out, int V>
__global__ void __launch_bounds__(kBlockThreads) convert_kernel(const In* x, int64_t vectors, Out* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
  load<V>(x + item * V, values);
  alignas(16) Out converted[V];
#pragma unroll
  for (int i = 0; i < V; ++i) put_exactly(values[i], converted + i);
  if constexpr (V == 1) {
    out[item] = converted[0];
  } else {
#pragma unroll
    for (int i = 0; i < V * static_cast<int>(sizeof(Out)) / 16; ++i)
      reinterpret_cast<uint4*>(out + item * V)[i] = reinterpret_cast<const uint4*>(converted)[i];
  }
}

template <int V>
__global__ void __launch_bounds__(kBlockThreads)
    fill_rows_kernel(const float* row, int64_t vectors, int row_vectors, float* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  float values[V];
  load<V>(row + item % row_vectors * V, values);
  store<V>(values, out + item * V);
}

template <class In, int V>
__global__ void __launch_bounds__(kBlockThreads)
    embed_kernel(const In* table, const int32_t* ids, int64_t vectors, int row_vectors, float* out) {
  const int64_t item = this_item();
  if (item >= vectors) return;
  const int64_t id = ids[item / row_vectors];
  float values[V];
  load<V>(table + (id * row_vectors + item % row_vectors) * V, values);
  store<V>(values, out + item * V);
}

template <class In>
void convert_from(Context& ctx, const In* in, View out) {
  const int64_t elements = out.elements();
  with_elements(out, [&]<class Out>(Out* to) {
    with_vector(elements % kVector == 0 && is_aligned(in, to), [&](auto v) {
      const int64_t vectors = elements / v;
      convert_kernel<In, Out, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(in, vectors, to);
      check_launch("convert");
    });
  });
}

}  // namespace

void run(OnCuda<silu_mul>, Context& ctx, ConstView gate_up, View out) {
  const int64_t ffn = out.shape()[1];
  if (out.elements() == 0) return;
  with_elements(gate_up, [&]<class In>(const In* in) {
    with_elements(out, [&]<class Out>(Out* to) {
      with_vector(ffn % kVector == 0 && is_aligned(in, to), [&](auto v) {
        const int64_t vectors = out.elements() / v;
        silu_mul_kernel<In, Out, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(
            in, vectors, static_cast<int>(ffn / v), to);
        check_launch("silu_mul");
      });
    });
  });
}

void run(OnCuda<silu>, Context& ctx, ConstView x, View out) {
  if (x.elements() == 0) return;
  with_elements(x, [&]<class In>(const In* in) {
    with_elements(out, [&]<class Out>(Out* to) {
      with_vector(x.elements() % kVector == 0 && is_aligned(in, to), [&](auto v) {
        const int64_t vectors = x.elements() / v;
        silu_kernel<In, Out, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(in, vectors, to);
        check_launch("silu");
      });
    });
  });
}

void run(OnCuda<finish_modulation>, Context& ctx, View x) {
  if (x.elements() == 0) return;
  finish_modulation_kernel<<<blocks_for(x.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(
      x.data<float>(), x.elements(), static_cast<int>(x.shape()[1] / 4));
  check_launch("finish_modulation");
}

void run(OnCuda<add>, Context& ctx, ConstView x, View y) {
  if (x.elements() == 0) return;
  with_elements(x, [&]<class In>(const In* in) {
    with_elements(y, [&]<class Out>(Out* to) {
      with_vector(x.elements() % kVector == 0 && is_aligned(in, to), [&](auto v) {
        const int64_t vectors = x.elements() / v;
        add_kernel<In, Out, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(in, vectors, to);
        check_launch("add");
      });
    });
  });
}

void run(OnCuda<add_scalar>, Context& ctx, float value, View x) {
  if (x.elements() == 0) return;
  add_scalar_kernel<<<blocks_for(x.elements()), kBlockThreads, 0, ctx.stream().handle()>>>(x.data<float>(), value,
                                                                                           x.elements());
  check_launch("add_scalar");
}

void run(OnCuda<convert>, Context& ctx, ConstView x, View out) {
  if (x.elements() == 0) return;
  if (x.dtype() == out.dtype())
    copy_async(out.bytes(), x.bytes(), x.size_in_bytes(), ctx.stream().handle());
  else if (x.dtype() == DType::f16)
    convert_from(ctx, reinterpret_cast<const Half*>(x.bytes()), out);
  else
    with_elements(x, [&]<class In>(const In* in) { convert_from(ctx, in, out); });
}

void run(OnCuda<fill_rows>, Context& ctx, ConstView row, View out) {
  const int64_t channels = out.shape()[1];
  if (out.elements() == 0) return;
  const float* from = row.data<float>();
  float* to = out.data<float>();
  with_vector(channels % kVector == 0 && is_aligned(from, to), [&](auto v) {
    const int64_t vectors = out.elements() / v;
    fill_rows_kernel<v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(
        from, vectors, static_cast<int>(channels / v), to);
    check_launch("fill_rows");
  });
}

void run(OnCuda<clear>, Context& ctx, View out) {
  check_cuda(cudaMemsetAsync(out.bytes(), 0, out.size_in_bytes(), ctx.stream().handle()), "cannot clear memory");
}

void run(OnCuda<embed>, Context& ctx, ConstView table, ConstView ids, View out) {
  const int64_t channels = out.shape()[1];
  if (out.elements() == 0) return;
  const int32_t* id = ids.data<int32_t>();
  float* to = out.data<float>();
  with_elements(table, [&]<class In>(const In* in) {
    with_vector(channels % kVector == 0 && is_aligned(in, to), [&](auto v) {
      const int64_t vectors = out.elements() / v;
      embed_kernel<In, v><<<blocks_for(vectors), kBlockThreads, 0, ctx.stream().handle()>>>(
          in, id, vectors, static_cast<int>(channels / v), to);
      check_launch("embed");
    });
  });
}

}  // namespace nostos::ops
