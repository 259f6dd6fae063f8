// Implements the project's own kernels of attention.
#include "ops/cuda/attention_softmax.h"

#include <algorithm>

#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"

namespace nostos::cuda {
namespace {

constexpr int kThreads = 512, kDivideThreads = 128;

template <int threads>
__device__ float block_max(float value, float* partial) {
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  for (int warp = 0; warp < threads / 32; ++warp) value = fmaxf(value, partial[warp]);
  return value;
}

/// The most scores of a row that a block keeps: two blocks a multiprocessor on server GPUs, whose rows' other scores
/// the L2 cache holds from the first pass to the second.
constexpr int64_t kKeptScores = 24 * 1024;
constexpr int64_t kOwnSharedBytes = 1024;  // of a kernel's variables, at most
static_assert(fits_every_gpu(kThreads, kKeptScores* int64_t{sizeof(float)} + kOwnSharedBytes));

constexpr int kAhead = 4;  // pieces of a row that a thread has on their way at once

/// e^x for x <= 0; to bf16 it may err by 1e-5 of itself.
template <class Out>
__device__ float exp_for(float x) {
  if constexpr (sizeof(Out) == 4)
    return expf(x);
  else
    return __expf(x);
}

/// One block a row. Each thread has the same V-element pieces of the row in both passes, so that probabilities may
/// replace scores. Shared: the first `kept` scores.
template <int V, class Out>
__global__ void __launch_bounds__(kThreads)
    softmax_rows_kernel(const float* scores, int64_t keys, int64_t kept, float scale, Out* probabilities, float* sums,
                        float* log_sum_exp) {
  extern __shared__ float4 shared_scores[];
  float* const kept_scores = reinterpret_cast<float*>(shared_scores);
  __shared__ float partial[kThreads / 32], partial_sums[kThreads / 32];
  const float* row = scores + blockIdx.x * keys;
  Out* out = probabilities + blockIdx.x * keys;
  float top = -INFINITY;
  for (int64_t first = threadIdx.x * V; first < keys; first += kThreads * V * kAhead) {
    Raw<float, V> raw[kAhead];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int64_t k = first + ahead * kThreads * V;
      if (k < keys) raw[ahead].load(row + k);
    }
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int64_t k = first + ahead * kThreads * V;
      if (k >= keys) break;
      float values[V];
      raw[ahead].unpack(values);
      if (k < kept) store<V>(values, kept_scores + k);
#pragma unroll
      for (int i = 0; i < V; ++i) top = fmaxf(top, values[i]);
    }
  }
  top = block_max<kThreads>(top, partial);
  float sum = 0;
  for (int64_t k = threadIdx.x * V; k < keys; k += kThreads * V) {
    float values[V];
    if (k < kept) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] = kept_scores[k + i];
    } else {
      load<V>(row + k, values);
    }
#pragma unroll
    for (int i = 0; i < V; ++i) {
      values[i] = exp_for<Out>(scale * (values[i] - top));
      sum += values[i];
    }
    store<V>(values, out + k);
  }
  sum = block_sum(sum, partial_sums);
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = sum;
  if (log_sum_exp != nullptr) log_sum_exp[blockIdx.x] = scale * top + logf(sum);
}

template <class Out>
__global__ void __launch_bounds__(kDivideThreads)
    divide_rows_kernel(const float* values, const float* sums, int64_t width, int64_t out_stride, Out* out) {
  const float factor = 1.f / sums[blockIdx.x];
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
    put(values[blockIdx.x * width + i] * factor, out + blockIdx.x * out_stride + i);
}

constexpr int kCausalThreads = 128;
constexpr int64_t kMostCausalHead = 2048;  // channels
static_assert(fits_every_gpu(kCausalThreads, 2 * kMostCausalHead * int64_t{sizeof(float)} + kOwnSharedBytes));

/// One block a query (x) and head (y); keys in tiles of one a thread, with the softmax's largest score and sum
/// carried along (Milakov and Gimelshein, arXiv 1805.02867). Shared: the query and the sums of values, head_dim each.
template <class T>
__global__ void __launch_bounds__(kCausalThreads)
    causal_attention_kernel(const T* q, const T* k, const T* v, float scale, int64_t tokens, int head_dim, int group,
                            T* out) {
  extern __shared__ float shared[];
  __shared__ float weights[kCausalThreads], partial[kCausalThreads / 32], partial_sums[kCausalThreads / 32];
  float* const query = shared;
  float* const mixed = shared + head_dim;
  const int64_t token = blockIdx.x, head = blockIdx.y, heads = gridDim.y;
  const T* const head_keys = k + head / group * tokens * head_dim;
  const T* const head_values = v + head / group * tokens * head_dim;
  for (int i = threadIdx.x; i < head_dim; i += kCausalThreads) {
    query[i] = as_float(q[(head * tokens + token) * head_dim + i]);
    mixed[i] = 0;
  }
  __syncthreads();
  float top = -INFINITY, sum = 0;
  for (int64_t first = 0; first <= token; first += kCausalThreads) {
    const int64_t key = first + threadIdx.x;
    float score = -INFINITY;
    if (key <= token) {
      score = 0;
      for (int i = 0; i < head_dim; ++i) score = fmaf(query[i], as_float(head_keys[key * head_dim + i]), score);
      score *= scale;
    }
    const float new_top = fmaxf(top, block_max<kCausalThreads>(score, partial));
    const float weight = expf(score - new_top), keep = expf(top - new_top);
    weights[threadIdx.x] = weight;
    sum = sum * keep + block_sum(weight, partial_sums);
    const int count = static_cast<int>(min(static_cast<int64_t>(kCausalThreads), token + 1 - first));
    for (int i = threadIdx.x; i < head_dim; i += kCausalThreads) {
      float total = mixed[i] * keep;
      for (int n = 0; n < count; ++n)
        total = fmaf(weights[n], as_float(head_values[(first + n) * head_dim + i]), total);
      mixed[i] = total;
    }
    top = new_top;
    __syncthreads();  // weights and partial sums are written again
  }
  for (int i = threadIdx.x; i < head_dim; i += kCausalThreads)
    put(mixed[i] / sum, out + (token * heads + head) * head_dim + i);
}

}  // namespace

void softmax_rows(ConstView scores, float scale, View probabilities, float* sums, float* log_sum_exp,
                  CUstream_st* stream) {
  const int64_t keys = scores.shape()[1];
  with_elements(probabilities, [&]<class Out>(Out* out) {
    with_vector(keys % kVector == 0 && is_aligned(scores.bytes(), probabilities.bytes()), [&](auto vector) {
      const auto kernel = softmax_rows_kernel<vector(), Out>;
      const int64_t kept = std::min(keys, kKeptScores);
      const size_t shared_bytes = static_cast<size_t>(kept) * sizeof(float);
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(kKeptScores * sizeof(float))),
                 "cannot set softmax_rows' shared memory");
      kernel<<<static_cast<unsigned>(scores.shape()[0]), kThreads, shared_bytes, stream>>>(
          scores.data<float>(), keys, kept, scale, out, sums, log_sum_exp);
    });
  });
  check_launch("softmax_rows");
}

void divide_rows(ConstView values, const float* sums, int64_t out_stride, DType out_dtype, std::byte* out,
                 CUstream_st* stream) {
  const int64_t width = values.shape()[1];
  with_elements(View(out, out_dtype, {width}), [&]<class Out>(Out* to) {
    divide_rows_kernel<<<static_cast<unsigned>(values.shape()[0]), kDivideThreads, 0, stream>>>(
        values.data<float>(), sums, width, out_stride, to);
  });
  check_launch("divide_rows");
}

void causal_attention(const ops::QueriesKeysValues& given, float scale, View out, CUstream_st* stream) {
  const ConstView q = given.q, k = given.k, v = given.v;
  const int64_t heads = q.shape()[0], tokens = q.shape()[1], head_dim = q.shape()[2];
  const dim3 grid(static_cast<unsigned>(tokens), static_cast<unsigned>(heads));
  nostos::check(head_dim <= kMostCausalHead, "the CUDA kernel of causal attention takes heads of up to 2048 channels");
  const size_t shared_bytes = static_cast<size_t>(2 * head_dim) * sizeof(float);
  with_elements(q, [&]<class T>(const T* queries) {
    causal_attention_kernel<<<grid, kCausalThreads, shared_bytes, stream>>>(
        queries, k.data<T>(), v.data<T>(), scale, tokens, static_cast<int>(head_dim),
        static_cast<int>(heads / k.shape()[0]), out.data<T>());
  });
  check_launch("causal_attention");
}

}  // namespace nostos::cuda
