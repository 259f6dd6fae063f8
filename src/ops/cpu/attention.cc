// Implements attention in blocks of queries: one product for the scores, a float32 softmax, one product with the
// values.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/attention.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "ops/typed.h"

namespace nostos::ops {

using namespace cpu;

void run(OnCpu<split_heads_rope>, Context& ctx, ConstView qkv, const RotaryHeads& rotary,
         std::span<const HeadGroup> groups) {
  const HeadRows first = groups[0].part(0);
  const int64_t tokens = first.tokens, head_dim = first.head_dim, half = head_dim / 2;
  const int64_t all_heads = qkv.shape()[1] / head_dim;
  const float* in = qkv.data<float>();
  const float* c = optional_data<float>(rotary.cos);
  const float* s = optional_data<float>(rotary.sin);
  const float* q_weight = optional_data<float>(rotary.q_norm);
  const float* k_weight = optional_data<float>(rotary.k_norm);
  with_elements(groups[0].first(), [&]<class Out>(Out*) {
    const OutputKernels<Out>& kernels = row_kernels().of<Out>();
    parallel_ranges(ctx, tokens, row_grain(all_heads * head_dim), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const float* row = in + t * all_heads * head_dim;
        const auto place = [&](const HeadRows& heads, bool rotated, const float* weight) {
          for (int64_t h = 0; h < heads.heads; ++h, row += head_dim) {
            if (heads.data == nullptr) continue;
            Out* to = reinterpret_cast<Out*>(heads.data) + h * heads.head_stride + t * heads.token_stride;
            if (rotated && c != nullptr)
              kernels.rotate(row, {weight, rotary.eps, c + t * half, s + t * half, half, rotary.pairs}, to);
            else
              kernels.scale(row, 1.f, head_dim, to);
          }
        };
        for (const HeadGroup& group : groups) place(group.part(0), true, q_weight);
        for (const HeadGroup& group : groups) place(group.part(1), true, k_weight);
        for (const HeadGroup& group : groups) place(group.part(2), false, nullptr);
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

/// \param out of T or f32. \param log_sum_exp f32 [heads, queries] or null.
template <class T, class Out>
void attention_of(Context& ctx, const QueriesKeysValues& given, float scale, bool causal, View out, View log_sum_exp) {
  const ConstView q = given.q, k = given.k, v = given.v;
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
  float* lse = log_sum_exp ? log_sum_exp.data<float>() : nullptr;
  parallel_tasks(ctx, heads * blocks, [&](int64_t task) {
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
      const SoftmaxSum softmax = kernels.softmax_exp(scratch.scores + r * seen, scale, visible, row);
      sums[r] = softmax.sum;
      if (lse != nullptr && r < count) lse[head * queries + first + r] = scale * softmax.top + std::log(softmax.sum);
      std::memset(static_cast<void*>(row + visible), 0, static_cast<size_t>(seen - visible) * sizeof(T));
    }
    matmul.run({rows, seen, head_dim, head_dim, 1, seen, head_dim}, scratch.probabilities,
               v.data<T>() + kv * keys * head_dim, scratch.output);
    for (int64_t r = 0; r < count; ++r) {
      row_kernels().of<Out>().scale(scratch.output + r * head_dim, 1.f / sums[r], head_dim,
                                    out.data<Out>() + ((first + r) * heads + head) * head_dim);
    }
  });
}

}  // namespace

void run(OnCpu<attention>, Context& ctx, const QueriesKeysValues& heads, float scale, bool causal, View out) {
  if (heads.q.dtype() == DType::bf16)
    attention_of<bfloat16, bfloat16>(ctx, heads, scale, causal, out, {});
  else
    attention_of<float, float>(ctx, heads, scale, causal, out, {});
}

void run(OnCpu<attention_part>, Context& ctx, const QueriesKeysValues& heads, float scale, View out, View log_sum_exp) {
  if (heads.q.dtype() == DType::bf16)
    attention_of<bfloat16, float>(ctx, heads, scale, false, out, log_sum_exp);
  else
    attention_of<float, float>(ctx, heads, scale, false, out, log_sum_exp);
}

void run(OnCpu<merge_attention>, Context& ctx, ConstView part, ConstView part_log_sum_exp, View out, View log_sum_exp) {
  const int64_t heads = log_sum_exp.shape()[0], queries = log_sum_exp.shape()[1];
  if (heads == 0) return;
  const int64_t head_dim = out.shape()[1] / heads;
  const float* from = part.data<float>();
  const float* from_lse = part_log_sum_exp.data<float>();
  float* to = out.data<float>();
  float* lse = log_sum_exp.data<float>();
  parallel_ranges(ctx, queries, row_grain(heads * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const float a = lse[h * queries + t], b = from_lse[h * queries + t], top = std::max(a, b);
        const float sum = std::exp(a - top) + std::exp(b - top);
        const float keep = std::exp(a - top) / sum, add = std::exp(b - top) / sum;
        for (int64_t i = (t * heads + h) * head_dim; i < (t * heads + h + 1) * head_dim; ++i)
          to[i] = keep * to[i] + add * from[i];
        lse[h * queries + t] = top + std::log(sum);
      }
    }
  });
}

}  // namespace nostos::ops
