// Implements attention in blocks of queries: one product for the scores, a float32 softmax, one product with the
// values.
#include <omp.h>

#include <cstring>

#include "ops/cpu/matmul.h"
#include "ops/cpu/ops.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/cpu/typed.h"

namespace nostos::cpu {

void split_heads_rope(Context& ctx, ConstView qkv, ConstView q_norm, ConstView k_norm, float eps, ConstView cos,
                      ConstView sin, ops::RotaryPairs pairs, View q, View k, View v) {
  const int64_t heads = q.shape()[0], kv_heads = k.shape()[0], tokens = q.shape()[1], head_dim = q.shape()[2];
  const int64_t all_heads = heads + 2 * kv_heads, half = head_dim / 2;
  const float* in = qkv.data<float>();
  const float* c = optional_data<float>(cos);
  const float* s = optional_data<float>(sin);
  const float* q_weight = optional_data<float>(q_norm);
  const float* k_weight = optional_data<float>(k_norm);
  with_output(q, [&]<class Out>(Out* q_out) {
    Out* k_out = k.data<Out>();
    Out* v_out = v.data<Out>();
    const OutputKernels<Out>& kernels = row_kernels().of<Out>();
    parallel_ranges(ctx, tokens, row_grain(all_heads * head_dim), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* row = in + t * all_heads * head_dim;
        const auto place = [&](const float* weight, Out* to) {
          if (c == nullptr)
            kernels.scale(row, 1.f, head_dim, to);
          else
            kernels.rotate(row, weight, eps, c + t * half, s + t * half, half, pairs, to);
          row += head_dim;
        };
        for (int64_t h = 0; h < heads; ++h) place(q_weight, q_out + (h * tokens + t) * head_dim);
        for (int64_t h = 0; h < kv_heads; ++h) place(k_weight, k_out + (h * tokens + t) * head_dim);
        for (int64_t h = 0; h < kv_heads; ++h, row += head_dim) {
          kernels.scale(row, 1.f, head_dim, v_out + (h * tokens + t) * head_dim);
        }
      }
    });
  });
}

namespace {

constexpr int64_t kQueryBlock = 64;

/// What one block of queries needs beside its operands, laid out in one piece of a thread's workspace.
template <class T>
struct BlockScratch {
  static size_t bytes(int64_t keys, int64_t head_dim) {
    const size_t scores = static_cast<size_t>(kQueryBlock * keys);
    const size_t probabilities_bytes = sizeof(T) == sizeof(float) ? 0 : scores * sizeof(T);
    return scores * sizeof(float) + probabilities_bytes +
           static_cast<size_t>(2 * kQueryBlock * head_dim) * sizeof(float);
  }
  BlockScratch(std::byte* at, int64_t keys, int64_t head_dim)
      : output(reinterpret_cast<float*>(at)),
        padded_queries(reinterpret_cast<T*>(output + kQueryBlock * head_dim)),
        scores(output + 2 * kQueryBlock * head_dim),
        // float32 probabilities replace the scores in place.
        probabilities(sizeof(T) == sizeof(float) ? reinterpret_cast<T*>(scores)
                                                 : reinterpret_cast<T*>(scores + kQueryBlock * keys)) {}

  float* output;
  T* padded_queries;
  float* scores;
  T* probabilities;
};

template <class T>
void attention_of(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out) {
  const int64_t heads = q.shape()[0], queries = q.shape()[1], head_dim = q.shape()[2];
  const int64_t kv_heads = k.shape()[0], keys = k.shape()[1];
  if (queries == 0 || heads == 0) return;
  BlockMatmul matmul(ctx, q.dtype());
  const int64_t blocks = (queries + kQueryBlock - 1) / kQueryBlock;
  // A causal block needs the keys up to its last query only.
  const auto keys_of = [&](int64_t block) { return causal ? std::min(keys, (block + 1) * kQueryBlock) : keys; };
  const auto rows_of = [&](int64_t block) {
    return matmul.fixed_rows() ? kQueryBlock : std::min(kQueryBlock, queries - block * kQueryBlock);
  };
  for (int64_t b = 0; b < blocks; ++b) {
    if (!causal && b != 0 && b != blocks - 1) continue;
    matmul.prepare({rows_of(b), head_dim, keys_of(b), 1, head_dim, head_dim, keys_of(b)});
    matmul.prepare({rows_of(b), keys_of(b), head_dim, head_dim, 1, keys_of(b), head_dim});
  }
  const size_t scratch_bytes = BlockScratch<T>::bytes(keys, head_dim);
  matmul.reserve_workspaces(scratch_bytes);
  const OutputKernels<T>& kernels = row_kernels().of<T>();
#pragma omp parallel for schedule(dynamic) num_threads(ctx.threads())
  for (int64_t task = 0; task < heads * blocks; ++task) {
    const int64_t head = task / blocks, block = task % blocks, first = block * kQueryBlock;
    const int64_t count = std::min(kQueryBlock, queries - first), rows = rows_of(block), seen = keys_of(block);
    const int64_t kv = head / (heads / kv_heads);
    const BlockScratch<T> scratch(matmul.workspace(omp_get_thread_num(), scratch_bytes), keys, head_dim);
    const T* block_queries = q.data<T>() + (head * queries + first) * head_dim;
    if (rows > count) {
      std::memset(static_cast<void*>(scratch.padded_queries), 0, static_cast<size_t>(rows * head_dim) * sizeof(T));
      std::memcpy(static_cast<void*>(scratch.padded_queries), block_queries,
                  static_cast<size_t>(count * head_dim) * sizeof(T));
      block_queries = scratch.padded_queries;
    }
    matmul.run({rows, head_dim, seen, 1, head_dim, head_dim, seen}, block_queries, k.data<T>() + kv * keys * head_dim,
               scratch.scores);
    float sums[kQueryBlock];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t visible = causal ? std::min(first + r + 1, seen) : seen;
      T* row = scratch.probabilities + r * seen;
      sums[r] = kernels.softmax_exp(scratch.scores + r * seen, scale, visible, row);
      std::memset(static_cast<void*>(row + visible), 0, static_cast<size_t>(seen - visible) * sizeof(T));
    }
    matmul.run({rows, seen, head_dim, head_dim, 1, seen, head_dim}, scratch.probabilities,
               v.data<T>() + kv * keys * head_dim, scratch.output);
    for (int64_t r = 0; r < count; ++r) {
      kernels.scale(scratch.output + r * head_dim, 1.f / sums[r], head_dim,
                    out.data<T>() + ((first + r) * heads + head) * head_dim);
    }
  }
}

}  // namespace

void attention(Context& ctx, ConstView q, ConstView k, ConstView v, float scale, bool causal, View out) {
  if (q.dtype() == DType::bf16)
    attention_of<bfloat16>(ctx, q, k, v, scale, causal, out);
  else
    attention_of<float>(ctx, q, k, v, scale, causal, out);
}

}  // namespace nostos::cpu
