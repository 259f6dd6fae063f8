// Implements random operands and digests of rows.
#include "base/error.h"
#include "device/cuda/check.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/linear_trials.h"

namespace nostos::cuda {
namespace {

constexpr int kThreads = 256;

/// Source: splitmix64 (Steele, Lea and Flood 2014).
__device__ uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_random_kernel(T* data, size_t elements, uint64_t seed) {
  const size_t stride = static_cast<size_t>(gridDim.x) * kThreads;
  for (size_t i = static_cast<size_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements; i += stride)
    put(static_cast<float>(mix(i ^ seed) >> 40) * 0x1p-23f - 1.f, data + i);
}

template <class Word>
__global__ void __launch_bounds__(kThreads) digest_rows_kernel(const Word* data, size_t row_words, uint64_t* digests) {
  __shared__ uint64_t partial[kThreads / 32];
  const Word* row = data + blockIdx.x * row_words;
  uint64_t sum = 0;
  for (size_t i = threadIdx.x; i < row_words; i += kThreads) sum += mix(row[i] ^ (static_cast<uint64_t>(i) << 32));
  sum = block_sum(sum, partial);
  if (threadIdx.x == 0) digests[blockIdx.x] = sum;
}

}  // namespace

void fill_random(void* data, DType dtype, size_t elements, uint32_t seed, CUstream_st* stream) {
  constexpr unsigned kBlocks = 2048;
  const uint64_t high_seed = static_cast<uint64_t>(seed) << 40;
  if (dtype == DType::bf16)
    fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<bfloat16*>(data), elements, high_seed);
  else
    fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<float*>(data), elements, high_seed);
  check_launch("fill_random");
}

void digest_rows(const void* data, int64_t rows, size_t row_bytes, uint64_t* digests, CUstream_st* stream) {
  nostos::check(row_bytes % 2 == 0, "rows of bf16 or f32 have an even number of bytes");
  const auto blocks = static_cast<unsigned>(rows);
  if (row_bytes % 4 == 0)
    digest_rows_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const uint32_t*>(data), row_bytes / 4, digests);
  else
    digest_rows_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const uint16_t*>(data), row_bytes / 2, digests);
  check_launch("digest_rows");
}

}  // namespace nostos::cuda
