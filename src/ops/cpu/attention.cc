// Implements attention in blocks of queries: one product for the scores, a float32 softmax, one product with the
// values.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/rounding.h"
#include "device/workspace.h"
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

void run(OnCpu<key_centres>, Context& ctx, ConstView k, View centres) {
  const int64_t keys = k.shape()[1], head_dim = k.shape()[2];
  const int64_t step = divide_up(keys, kMostCentreKeys), count = divide_up(keys, step);
  with_elements(k, [&]<class T>(const T* in) {
    parallel_tasks(ctx, k.shape()[0], [&](int64_t head) {
      std::vector<float> sums(static_cast<size_t>(kCentreSums * head_dim));
      for (int64_t i = 0; i < count; ++i) {
        const T* row = in + (head * keys + i * step) * head_dim;
        float* sum = sums.data() + i % kCentreSums * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) sum[d] += to_float(row[d]);
      }
      float* centre = centres.data<float>() + head * head_dim;
      for (int64_t d = 0; d < head_dim; ++d) {
        float all = 0;
        for (int64_t i = 0; i < kCentreSums; ++i) all += sums[static_cast<size_t>(i * head_dim + d)];
        centre[d] = all / static_cast<float>(count);
      }
    });
  });
}

void run(OnCpu<quantise_heads>, Context& ctx, ConstView heads, const HeadRounding& rounding, View numbers,
         View scales) {
  const int64_t tokens = heads.shape()[1], head_dim = heads.shape()[2], blocks = scales.shape()[1];
  const auto& [shared, centres] = rounding;
  with_elements(heads, [&]<class T>(const T* in) {
    parallel_ranges(ctx, heads.shape()[0] * blocks, row_grain(shared * head_dim), [&](int64_t begin, int64_t end) {
      std::vector<float> values(static_cast<size_t>(shared * head_dim));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / blocks, first = i % blocks * shared,
                      count = std::min(shared, tokens - first) * head_dim;
        const int64_t at = (head * tokens + first) * head_dim;
        for (int64_t d = 0; d < count; ++d) {
          const float centre = centres ? centres.data<float>()[head * head_dim + d % head_dim] : 0.f;
          values[static_cast<size_t>(d)] = to_float(in[at + d]) - centre;
        }
        const float largest = row_kernels().rotate_blocks(values.data(), count, 0);
        scales.data<float>()[i] = largest / 127.f;
        row_kernels().to_i8(values.data(), largest > 0 ? 127.f / largest : 0.f, count, numbers.data<int8_t>() + at);
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

/// What scores of q and k that hold whole numbers are multiplied with, a row each; null for others.
struct HeadScales {
  ConstView q, k;  ///< f32 [heads, queries] and [kv_heads, one for kKeysAScale keys]

  /// Multiplies scores of the keys of `kv_head` with their scales. \return the scale of row `query`
  float apply(int64_t query, int64_t kv_head, int64_t count, float* scores) const {
    if (!q) return 1;
    const float* of_keys = k.data<float>() + kv_head * k.shape()[1];
    for (int64_t i = 0; i < count; ++i) scores[i] *= of_keys[i / kKeysAScale];
    return q.data<float>()[query];
  }
};

struct Attended {
  QueriesKeysValues heads;
  HeadScales scales{};
};

/// \param out of T or f32. \param log_sum_exp f32 [heads, queries] or null.
template <class T, class Out>
void attention_of(Context& ctx, const Attended& given, float scale, bool causal, View out, View log_sum_exp) {
  const ConstView q = given.heads.q, k = given.heads.k, v = given.heads.v;
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
      float* scores = scratch.scores + r * seen;
      const int64_t query = head * queries + std::min(first + r, queries - 1);  // what pads a block has no scale
      const float row_scale = scale * given.scales.apply(query, kv, seen, scores);
      const SoftmaxSum softmax = kernels.softmax_exp(scores, row_scale, visible, row);
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

struct RoundedHeads : Workspace {
  using Workspace::Workspace;
};

/// q and k rounded to 8 bits, as T, which holds such numbers and, in float32, every sum of their products exactly.
struct WholeNumbers {
  View q, k;
  HeadScales scales;
};

template <class T>
WholeNumbers whole_numbers(Context& ctx, const QueriesKeysValues& given) {
  const Shape &q = given.q.shape(), &k = given.k.shape();
  const auto elements = static_cast<size_t>(q.elements() + k.elements());
  const int64_t key_blocks = divide_up(k[1], kKeysAScale);
  const auto floats = static_cast<size_t>(q[0] * q[1] + k[0] * (key_blocks + k[2]));
  std::byte* at = ctx.state<RoundedHeads>().at_least(floats * sizeof(float) + elements * (sizeof(T) + sizeof(int8_t)));
  const auto next = [&at](DType dtype, const Shape& shape) {
    const View made(at, dtype, shape);
    at += made.size_in_bytes();
    return made;
  };
  const View centres = next(DType::f32, {k[0], k[2]});
  const View q_scales = next(DType::f32, {q[0], q[1]}), k_scales = next(DType::f32, {k[0], key_blocks});
  const WholeNumbers made{next(given.q.dtype(), q), next(given.k.dtype(), k), {q_scales, k_scales}};
  run(OnCpu<key_centres>(), ctx, given.k, centres);
  const auto round = [&](ConstView heads, const HeadRounding& rounding, View scales, View values) {
    const View numbers = next(DType::i8, heads.shape());
    run(OnCpu<quantise_heads>(), ctx, heads, rounding, numbers, scales);
    const int8_t* from = numbers.data<int8_t>();
    T* to = values.data<T>();
    parallel_ranges(ctx, heads.elements(), row_grain(1), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if constexpr (sizeof(T) == sizeof(float))
          to[i] = from[i];
        else
          to[i] = to_bfloat16(from[i]);
      }
    });
  };
  round(given.q, {}, q_scales, made.q);
  round(given.k, {kKeysAScale, centres}, k_scales, made.k);
  return made;
}

}  // namespace

void run(OnCpu<attention>, Context& ctx, const QueriesKeysValues& heads, const Scoring& scoring, bool causal,
         View out) {
  if (heads.q.elements() == 0) return;
  with_elements(heads.q, [&]<class T>(const T*) {
    if (!scoring.is_rounded) return attention_of<T, T>(ctx, {heads}, scoring.scale, causal, out, {});
    const WholeNumbers numbers = whole_numbers<T>(ctx, heads);
    attention_of<T, T>(ctx, {{numbers.q, numbers.k, heads.v}, numbers.scales}, scoring.scale, causal, out, {});
  });
}

void run(OnCpu<attention_part>, Context& ctx, const QueriesKeysValues& heads, float scale, View out, View log_sum_exp) {
  with_elements(heads.q,
                [&]<class T>(const T*) { attention_of<T, float>(ctx, {heads}, scale, false, out, log_sum_exp); });
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
