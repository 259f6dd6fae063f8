// Implements the step before attention (head norms, rotary embedding, the split into heads) and the merge after it.
#include "ops/attention.h"
#include "ops/cuda/attention_softmax.h"
#include "ops/cuda/device_math.cuh"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/rotated_heads.cuh"
#include "ops/device_op.h"

namespace nostos::ops {

using namespace cuda;
namespace {

constexpr int kMaxHeads = 256;

/// Where each head of the projection goes, for those that go anywhere: q heads, then k heads, then v heads; passed by
/// value.
struct HeadTargets {
  void* to[kMaxHeads];
  int32_t token_stride[kMaxHeads];  ///< elements from one token of `to` to the next
  uint16_t from[kMaxHeads];         ///< the head's place in the projection
  int q_heads = 0;                  ///< the first of `to`
  int rotated = 0;                  ///< q and k heads
  int moved = 0;                    ///< all of `to`
  int all_heads = 0;                ///< of the projection

  void add(int place, void* target, int64_t stride) {
    to[moved] = target;
    token_stride[moved] = static_cast<int32_t>(stride);
    from[moved] = static_cast<uint16_t>(place);
    ++moved;
  }
};

/// Block t has token t; `lanes` neighbouring threads have a head, kVector elements each, and those of kHeadsAhead on
/// their way at once.
template <class In, class Out, bool kInterleaved, int kHeadsAhead>
__global__ void __launch_bounds__(kBlockThreads)
    split_heads_rope_kernel(const In* qkv, const __grid_constant__ Rotary rotary, int lanes,
                            const __grid_constant__ HeadTargets heads) {
  const int64_t token = blockIdx.x;
  const int head_dim = lanes * kVector, lane = static_cast<int>(threadIdx.x) % lanes;
  const int slot = static_cast<int>(threadIdx.x) / lanes, slots = kBlockThreads / lanes;
  const bool rotates = rotary.cos != nullptr, norms = rotary.q_norm != nullptr;

  const HeadRotation<kInterleaved> rotation(rotary, token, lanes, lane);
  const In* row = qkv + token * heads.all_heads * head_dim + lane * kVector;
  for (int base = 0; base < heads.moved; base += slots * kHeadsAhead) {
    Raw<In, kVector> raw[kHeadsAhead];
#pragma unroll
    for (int ahead = 0; ahead < kHeadsAhead; ++ahead) {
      const int head = base + ahead * slots + slot;
      raw[ahead].clear();
      if (head < heads.moved) raw[ahead].load(row + heads.from[head] * head_dim);
    }
#pragma unroll
    for (int ahead = 0; ahead < kHeadsAhead; ++ahead) {
      if (base + ahead * slots >= heads.moved) break;  // for the whole block: warps stay together for the shuffles
      const int head = base + ahead * slots + slot;
      const bool rotated = head < heads.rotated;
      float x[kVector];
      raw[ahead].unpack(x);
      if (norms && __any_sync(kAllLanes, rotated))
        rotation.norm(x, head < heads.q_heads ? rotary.q_norm : rotary.k_norm, rotary.eps, rotated);
      if (rotates) rotation.rotate(x, rotated);
      if (head < heads.moved)
        store<kVector>(x, static_cast<Out*>(heads.to[head]) + token * heads.token_stride[head] + lane * kVector);
    }
  }
}

/// The same for head widths of any kind: a warp has a head of a token, a lane every 32nd pair.
template <class In, class Out>
__global__ void __launch_bounds__(kBlockThreads)
    split_odd_heads_rope_kernel(const In* qkv, const __grid_constant__ Rotary rotary, bool interleaved, int head_dim,
                                const __grid_constant__ HeadTargets heads) {
  const int64_t token = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32, half = head_dim / 2;
  for (int head = static_cast<int>(threadIdx.x) / 32; head < heads.moved; head += kBlockThreads / 32) {
    const In* from = qkv + (token * heads.all_heads + heads.from[head]) * head_dim;
    Out* to = static_cast<Out*>(heads.to[head]) + token * heads.token_stride[head];
    if (rotary.cos == nullptr || head >= heads.rotated) {
      for (int i = lane; i < head_dim; i += 32) put(as_float(from[i]), to + i);
      continue;
    }
    const float* weight = head < heads.q_heads ? rotary.q_norm : rotary.k_norm;
    float inverse = 1;
    if (weight != nullptr) {
      float squares = 0;
      for (int i = lane; i < head_dim; i += 32) squares += as_float(from[i]) * as_float(from[i]);
      inverse = 1.f / sqrtf(lane_sum(squares, 32) / static_cast<float>(head_dim) + rotary.eps);
    }
    for (int i = lane; i < half; i += 32) {
      const int first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
      const float a = as_float(from[first]) * inverse * (weight == nullptr ? 1.f : weight[first]);
      const float b = as_float(from[second]) * inverse * (weight == nullptr ? 1.f : weight[second]);
      const float c = rotary.cos[token * half + i], s = rotary.sin[token * half + i];
      put(a * c - b * s, to + first);
      put(a * s + b * c, to + second);
    }
  }
}

constexpr int64_t kMostMergedHeads = 4096;
static_assert(fits_every_gpu(kBlockThreads, 2 * kMostMergedHeads * int64_t{sizeof(float)}));

/// Block t has query t; its weights of the two parts lie in shared memory, first those to keep.
template <int V>
__global__ void __launch_bounds__(kBlockThreads)
    merge_attention_kernel(const float* part, const float* part_lse, int heads, int64_t queries, int head_dim,
                           float* out, float* lse) {
  extern __shared__ float weights[];
  const int64_t query = blockIdx.x;
  for (int h = static_cast<int>(threadIdx.x); h < heads; h += kBlockThreads) {
    const float a = lse[h * queries + query], b = part_lse[h * queries + query], top = fmaxf(a, b);
    const float keep = expf(a - top), add = expf(b - top), sum = keep + add;
    weights[h] = keep / sum;
    weights[heads + h] = add / sum;
    lse[h * queries + query] = top + logf(sum);
  }
  __syncthreads();
  const int width = heads * head_dim;
  for (int i = static_cast<int>(threadIdx.x) * V; i < width; i += kBlockThreads * V) {
    float mine[V], other[V];
    load<V>(out + query * width + i, mine);
    load<V>(part + query * width + i, other);
    const int h = i / head_dim;
#pragma unroll
    for (int j = 0; j < V; ++j) mine[j] = weights[h] * mine[j] + weights[heads + h] * other[j];
    store<V>(mine, out + query * width + i);
  }
}

HeadTargets head_targets(std::span<const HeadGroup> groups) {
  HeadTargets heads;
  const int64_t element_bytes = static_cast<int64_t>(size_bytes(groups[0].first().dtype()));
  const auto place = [&](int kind) {
    for (const HeadGroup& group : groups) {
      const HeadRows part = group.part(kind);
      check(heads.all_heads + part.heads <= kMaxHeads, "the CUDA kernel splits projections of up to 256 heads");
      for (int64_t h = 0; h < part.heads; ++h, ++heads.all_heads)
        if (part.data != nullptr)
          heads.add(heads.all_heads, part.data + h * part.head_stride * element_bytes, part.token_stride);
    }
    return heads.moved;
  };
  heads.q_heads = place(0);
  heads.rotated = place(1);
  place(2);
  return heads;
}

template <class In, class Out, int kHeadsAhead>
void launch_vector_heads(Context& ctx, const In* in, unsigned tokens, int64_t head_dim, const RotaryHeads& given,
                         const HeadTargets& heads) {
  const Rotary rotary = rotary_of(given);
  check(is_aligned(in, rotary.q_norm, rotary.k_norm, rotary.cos, rotary.sin), "heads begin at 16 bytes");
  for (int h = 0; h < heads.moved; ++h) check(is_aligned(static_cast<Out*>(heads.to[h])), "heads begin at 16 bytes");
  const int lanes = static_cast<int>(head_dim) / kVector;
  const auto kernel = given.pairs == RotaryPairs::interleaved ? split_heads_rope_kernel<In, Out, true, kHeadsAhead>
                                                              : split_heads_rope_kernel<In, Out, false, kHeadsAhead>;
  kernel<<<tokens, kBlockThreads, 0, ctx.stream().handle()>>>(in, rotary, lanes, heads);
}

}  // namespace

void run(OnCuda<split_heads_rope>, Context& ctx, ConstView qkv, const RotaryHeads& rotary,
         std::span<const HeadGroup> groups) {
  const int64_t head_dim = groups[0].part(0).head_dim;
  if (qkv.elements() == 0) return;
  const HeadTargets heads = head_targets(groups);
  if (heads.moved == 0) return;
  const unsigned tokens = static_cast<unsigned>(qkv.shape()[0]);
  with_elements(qkv, [&]<class In>(const In* in) {
    with_elements(groups[0].first(), [&]<class Out>(Out*) {
      if (has_vector_heads(head_dim))
        launch_vector_heads<In, Out, 3>(ctx, in, tokens, head_dim, rotary, heads);
      else
        split_odd_heads_rope_kernel<In, Out><<<tokens, kBlockThreads, 0, ctx.stream().handle()>>>(
            in, rotary_of(rotary), rotary.pairs == RotaryPairs::interleaved, static_cast<int>(head_dim), heads);
      check_launch("split_heads_rope");
    });
  });
}

void run(OnCuda<merge_attention>, Context& ctx, ConstView part, ConstView part_log_sum_exp, View out,
         View log_sum_exp) {
  const int64_t heads = log_sum_exp.shape()[0], queries = log_sum_exp.shape()[1];
  if (heads == 0 || queries == 0) return;
  nostos::check(heads <= kMostMergedHeads, "the CUDA kernel merges attention of up to 4096 heads");
  const int64_t head_dim = out.shape()[1] / heads;
  const float* from = part.data<float>();
  float* to = out.data<float>();
  with_vector(head_dim % kVector == 0 && is_aligned(from, to), [&](auto v) {
    merge_attention_kernel<v>
        <<<static_cast<unsigned>(queries), kBlockThreads, 2 * static_cast<size_t>(heads) * sizeof(float),
           ctx.stream().handle()>>>(from, part_log_sum_exp.data<float>(), static_cast<int>(heads), queries,
                                    static_cast<int>(head_dim), to, log_sum_exp.data<float>());
    check_launch("merge_attention");
  });
}

}  // namespace nostos::ops

namespace nostos::cuda {

void rotate_heads(Context& ctx, View qkv, const ops::RotaryHeads& rotary, ops::HeadCounts heads) {
  using namespace ops;
  const int64_t all_heads = heads.all(), head_dim = qkv.shape()[1] / all_heads;
  if (qkv.elements() == 0 || !rotary.cos) return;
  check(all_heads <= kMaxHeads && has_vector_heads(head_dim),
        "the CUDA kernel rotates up to 256 heads of whole vectors");
  HeadTargets targets;
  targets.q_heads = static_cast<int>(heads.q);
  targets.rotated = static_cast<int>(heads.q + heads.kv);
  targets.all_heads = static_cast<int>(all_heads);
  const size_t head_bytes = static_cast<size_t>(head_dim) * size_bytes(qkv.dtype());
  for (int h = 0; h < targets.rotated; ++h)  // v heads stay as they are
    targets.add(h, qkv.bytes() + static_cast<size_t>(h) * head_bytes, qkv.shape()[1]);
  with_elements(qkv, [&]<class T>(T* in) {
    // A block has 16 heads of 128 at once: the 60 of the full model are four times as many.
    launch_vector_heads<T, T, 4>(ctx, in, static_cast<unsigned>(qkv.shape()[0]), head_dim, rotary, targets);
    check_launch("rotate_heads");
  });
}

}  // namespace nostos::cuda
