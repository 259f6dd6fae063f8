// Implements attention of bf16 heads: by Hopper's own kernels for the transformers' and the VAE's widths, by cuDNN's
// fused ones; otherwise by two products a block of queries, or a kernel of its own where it is causal.
#include "base/error.h"
#include "base/lru_cache.h"
#include "device/workspace.h"
#include "ops/cuda/attention_softmax.h"
#include "ops/cuda/blas_lt.h"
#include "ops/cuda/cudnn.h"
#include "ops/cuda/dispatch.h"
#include "ops/cuda/hopper.h"
#include "ops/cuda/rounded_heads.h"
#include "ops/device_op.h"
#include "ops/elementwise.h"

namespace nostos::ops {

using namespace cuda;
namespace {

struct AttentionState {
  explicit AttentionState(Context& ctx) : workspace(ctx) {}

  /// \return the algorithm of a product of a block, the same for every number of queries: none splits the sum of an
  /// element, so that a query's result does not depend on the others.
  cublasLtMatmulAlgo_t algorithm(const BlasLt& blas, const Product& product) {
    if (const cublasLtMatmulAlgo_t* known = algorithms.find(product)) return *known;
    constexpr int64_t kTypicalQueries = 4096;
    const std::vector<cublasLtMatmulAlgo_t> candidates = blas.candidates(product, kTypicalQueries);
    require(!candidates.empty(), ErrorKind::device, "cuBLASLt has no algorithm for attention of {} heads with {} by {}",
            name(product.x), product.in, product.out);
    return algorithms.insert(product, candidates.front());
  }

  Workspace workspace;
  LruCache<Product, cublasLtMatmulAlgo_t> algorithms{256};
};

void attention_in_blocks(Context& ctx, const QueriesKeysValues& given, float scale, View out, View log_sum_exp) {
  const ConstView q = given.q, k = given.k, v = given.v;
  const int64_t heads = q.shape()[0], queries = q.shape()[1], head_dim = q.shape()[2];
  const int64_t keys = k.shape()[1], group = heads / k.shape()[0];
  const DType dtype = q.dtype();
  const int64_t block = query_block(queries, keys, dtype);
  const BlasLt& blas = ctx.state<BlasLt>();
  AttentionState& state = ctx.state<AttentionState>();
  const Product score_product{.in = head_dim, .out = keys, .x = dtype, .y = DType::f32};
  const Product value_product{.in = keys, .out = head_dim, .x = dtype, .y = DType::f32, .weight_is_in_out = true};
  const cublasLtMatmulAlgo_t score_algorithm = state.algorithm(blas, score_product);
  const cublasLtMatmulAlgo_t value_algorithm = state.algorithm(blas, value_product);

  size_t used = 0;
  const auto reserve = [&](int64_t elements, DType type) {
    const size_t begin = used;
    used += (static_cast<size_t>(elements) * size_bytes(type) + 255) / 256 * 256;
    return begin;
  };
  const size_t scores_at = reserve(block * keys, DType::f32);
  const size_t probabilities_at = dtype == DType::f32 ? scores_at : reserve(block * keys, dtype);
  const size_t mixed_at = reserve(block * head_dim, DType::f32), sums_at = reserve(block, DType::f32);
  std::byte* scratch = state.workspace.at_least(used);

  CUstream_st* stream = ctx.stream().handle();
  for (int64_t head = 0; head < heads; ++head) {
    const ConstView head_queries = q.rows(head, 1).reshape({queries, head_dim});
    const std::byte* head_keys = k.rows(head / group, 1).bytes();
    const std::byte* head_values = v.rows(head / group, 1).bytes();
    for (int64_t first = 0; first < queries; first += block) {
      const int64_t rows = std::min(block, queries - first);
      const View scores(scratch + scores_at, DType::f32, {rows, keys});
      const View probabilities(scratch + probabilities_at, dtype, {rows, keys});
      const View mixed(scratch + mixed_at, DType::f32, {rows, head_dim});
      auto* sums = reinterpret_cast<float*>(scratch + sums_at);
      blas.run(score_product, rows, score_algorithm,
               {head_queries.rows(first, rows).bytes(), head_keys, nullptr, scores.bytes()});
      softmax_rows(scores, scale, probabilities, sums,
                   log_sum_exp ? log_sum_exp.data<float>() + head * queries + first : nullptr, stream);
      blas.run(value_product, rows, value_algorithm, {probabilities.bytes(), head_values, nullptr, mixed.bytes()});
      const int64_t out_at = (first * heads + head) * head_dim;
      divide_rows(mixed, sums, heads * head_dim, out.dtype(),
                  out.bytes() + static_cast<size_t>(out_at) * size_bytes(out.dtype()), stream);
    }
  }
}

/// \return whether cuDNN serves these operands.
bool is_fused(ConstView q) { return q.dtype() == DType::bf16 && has_fused_attention(q.shape()[2]); }

/// \return the shape of the one head's rows.
Shape row_shape(ConstView head) { return {head.shape()[1], head.shape()[2]}; }

FusedAttention fused_shape(const QueriesKeysValues& heads, float scale, bool causal, bool log_sum_exp) {
  const auto& [q, k, v] = heads;
  return {q.shape()[0], k.shape()[0], q.shape()[1], k.shape()[1], q.shape()[2], scale, causal, log_sum_exp};
}

struct RoundedHeads : Workspace {
  using Workspace::Workspace;
};

/// What is made when heads are rounded.
struct RoundedScratch {
  View centres, q_scales, k_scales;
  std::byte* numbers;  ///< room for some

  RoundedScratch(Context& ctx, const Shape& q, const Shape& k, int64_t number_count) {
    const Shape shapes[] = {{k[0], kHopperHeadDim}, {q[0], q[1]}, {k[0], divide_up(k[1], kKeysAScale)}};
    int64_t floats = 0;
    for (const Shape& shape : shapes) floats += round_up(shape.elements(), 4);  // to begin at 16 bytes
    numbers = ctx.state<RoundedHeads>().at_least(static_cast<size_t>(floats) * sizeof(float) +
                                                 static_cast<size_t>(number_count));
    View* const views[] = {&centres, &q_scales, &k_scales};
    for (size_t i = 0; i < std::size(views); ++i) {
      *views[i] = View(numbers, DType::f32, shapes[i]);
      numbers += round_up(shapes[i].elements(), 4) * static_cast<int64_t>(sizeof(float));
    }
  }
  HeadScales scales() const { return {q_scales.data<float>(), k_scales.data<float>()}; }
};

void rounded_attention(Context& ctx, const QueriesKeysValues& heads, float scale, View out) {
  const auto& [q, k, v] = heads;
  const RoundedScratch scratch(ctx, q.shape(), k.shape(), q.elements() + k.elements());
  const View q_numbers(scratch.numbers, DType::i8, q.shape());
  const View k_numbers(scratch.numbers + q.elements(), DType::i8, k.shape());
  Op<key_centres>::on<DeviceKind::cuda>(ctx, k, scratch.centres);
  Op<quantise_heads>::on<DeviceKind::cuda>(ctx, q, HeadRounding{}, q_numbers, scratch.q_scales);
  Op<quantise_heads>::on<DeviceKind::cuda>(ctx, k, HeadRounding{kKeysAScale, scratch.centres}, k_numbers,
                                           scratch.k_scales);
  hopper_attention(ctx, {q_numbers, k_numbers, v}, scale, scratch.scales(), out);
}

}  // namespace

void run(OnCuda<attention>, Context& ctx, const QueriesKeysValues& given, const Scoring& scoring, bool causal,
         View out) {
  if (out.elements() == 0) return;
  const auto& [q, k, v] = given;
  const float scale = scoring.scale;
  const int64_t heads = q.shape()[0], head_dim = q.shape()[2];
  const bool is_hoppers = q.dtype() == DType::bf16 && !causal && has_hopper_kernels(ctx.device());
  if (scoring.is_rounded)
    rounded_attention(ctx, given, scale, out);
  else if (is_hoppers && head_dim == kHopperHeadDim)
    hopper_attention(ctx, given, scale, {}, out);
  else if (is_hoppers && head_dim == kHopperWideHead && heads == 1 && scale > 0)
    hopper_wide_attention(ctx, q.reshape(row_shape(q)), k.reshape(row_shape(k)), v.reshape(row_shape(v)), scale, out);
  else if (is_fused(q))
    ctx.state<Cudnn>().run(fused_shape(given, scale, causal, false), q.bytes(), k.bytes(), v.bytes(), out.bytes(),
                           nullptr);
  else if (causal)
    causal_attention(given, scale, out, ctx.stream().handle());
  else
    attention_in_blocks(ctx, given, scale, out, {});
}

void run(OnCuda<packed_attention_to>, Context& ctx, View qkv, const RotaryHeads& rotary, HeadCounts heads,
         const Scoring& scoring, std::span<const RowTarget> out) {
  if (qkv.elements() == 0) return;
  HeadScales scales;
  if (scoring.is_rounded) {
    const int64_t tokens = qkv.shape()[0];
    const RoundedScratch scratch(ctx, {heads.q, tokens, kHopperHeadDim}, {heads.kv, tokens, kHopperHeadDim}, 0);
    round_packed_heads(ctx, qkv, rotary, heads, scratch.centres.data<float>(), scratch.scales());
    scales = scratch.scales();
  } else {
    rotate_heads(ctx, qkv, rotary, heads);
  }
  hopper_packed_attention(ctx, qkv, heads, scoring.scale, scales, out);
}

void run(OnCuda<attention_part>, Context& ctx, const QueriesKeysValues& heads, float scale, View out,
         View log_sum_exp) {
  if (out.elements() == 0) return;
  const auto& [q, k, v] = heads;
  if (!is_fused(q)) return attention_in_blocks(ctx, heads, scale, out, log_sum_exp);
  // cuDNN's fast kernels write bf16 alone; it halves the speed to have float32 from the others.
  const View rounded(
      ctx.state<AttentionState>().workspace.at_least(static_cast<size_t>(out.elements()) * size_bytes(DType::bf16)),
      DType::bf16, out.shape());
  ctx.state<Cudnn>().run(fused_shape(heads, scale, false, true), q.bytes(), k.bytes(), v.bytes(), rounded.bytes(),
                         log_sum_exp.bytes());
  Op<convert>::on<DeviceKind::cuda>(ctx, rounded, out);
}

}  // namespace nostos::ops
