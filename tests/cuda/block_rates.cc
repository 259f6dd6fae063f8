// Prints the times of full-size transformers' blocks op by op, as the engine runs them on one rank: kernels of our own
// where there are any. Beside cuda_library_rates of the same rows it shows what each part costs above the ceilings, and
// beside a block without an adapter what one costs.
//   cuda_block_rates [z-image|klein] [ROWS ...]
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cuda/rates.h"
#include "device/cuda/runtime.h"
#include "io/environment.h"
#include "io/folder_cache.h"
#include "ops/attention.h"
#include "ops/int8_linear.h"
#include "ops/linear.h"
#include "ops/linear_update.h"
#include "ops/norm.h"

namespace nostos {
namespace {

constexpr float kEps = 1e-5f;
constexpr ops::RotaryPairs kPairs = ops::RotaryPairs::interleaved;
constexpr int64_t kAdapterRank = 16;  // of the adapter that a second run has

struct Weights {
  Linear qkv, out, down;
  GatedLinear gate_up;
};

/// \param rank of an adapter's terms on each projection, stacked where projections are; 0 without an adapter
Weights random_weights(Context& ctx, Bench& bench, const Blocks& blocks, int64_t rank) {
  const int64_t hidden = blocks.hidden(), ffn = blocks.ffn;
  const auto packed = [&](int64_t out, int64_t in, int64_t projections = 1) {
    Linear made = ops::pack_linear(ctx, bench.random(DType::bf16, {out, in}));
    if (rank > 0) {
      LinearUpdate update;
      const int64_t all = projections * rank;
      update.low_rank = {ops::pack_linear(ctx, bench.random(DType::bf16, {all, in})),
                         ops::pack_linear(ctx, bench.random(DType::bf16, {out, all}))};
      made.update = std::make_shared<const LinearUpdate>(std::move(update));
    }
    return made;
  };
  // Random rows: whether gates are interleaved makes no difference to the time.
  const bool is_fused = ops::fuses_gated_linear(ctx.device(), DType::bf16, {hidden, ffn, false});
  return {packed(3 * hidden, hidden, 3),
          packed(hidden, hidden),
          packed(hidden, ffn),
          {packed(2 * ffn, hidden, 2), is_fused}};
}

void measure_block(Context& ctx, Bench& bench, const Blocks& blocks, int64_t rows, int64_t rank = 0) {
  const int64_t hidden = blocks.hidden(), ffn = blocks.ffn, heads = blocks.heads, head_dim = Blocks::kHeadDim;
  std::vector<Weights> weights;
  for (size_t set = 0; set < kWeightSets; ++set) weights.push_back(random_weights(ctx, bench, blocks, rank));
  const Tensor norm = bench.random(DType::f32, {hidden}), head_norm = bench.random(DType::f32, {head_dim});
  const Tensor cos = bench.random(DType::f32, {rows, head_dim / 2}),
               sin = bench.random(DType::f32, {rows, head_dim / 2});
  const auto random = [&](const Shape& shape) { return bench.random(DType::bf16, shape); };
  Tensor x = bench.random(DType::f32, {rows, hidden}), normed = random({rows, hidden}), mixed = random({rows, hidden}),
         product = random({rows, ffn}), scratch = random({rows, 2 * ffn});
  Tensor projected = bench.random(
      blocks.is_parallel ? ops::linear_sum_dtype(ctx.device(), weights[0].out, weights[0].down) : DType::bf16,
      {rows, hidden});
  const bool is_packed = ops::packs_attention(ctx.device(), DType::bf16, head_dim, false);
  Tensor q, k, v;
  if (!is_packed) q = random({heads, rows, head_dim}), k = random(q.shape()), v = random(q.shape());
  const auto part = [&](int64_t columns) { return View(scratch.view().bytes(), DType::bf16, {rows, columns}); };
  const View qkv = part(3 * hidden);

  const std::vector<Width> products = blocks.products();
  const auto step = [&](size_t which, const std::function<void(const Weights&)>& op) {
    return BlockStep{products[which].name, product_flops(rows, products[which]),
                     [&weights, op](size_t set) { op(weights[set]); }};
  };
  const BlockStep qkv_step = step(0, [&](const Weights& w) { ops::linear(ctx, normed, w.qkv, qkv); });
  const BlockStep attend{"rotation and attention", attention_flops(heads, rows, rows, head_dim), [&](size_t) {
                           const ops::RotaryHeads rotary{head_norm, head_norm, kEps, cos, sin, kPairs};
                           const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
                           if (is_packed) return ops::packed_attention(ctx, qkv, rotary, {heads, heads}, scale, mixed);
                           ops::split_heads_rope(ctx, qkv, rotary, std::array{ops::HeadGroup{q, k, v}});
                           ops::attention(ctx, {q, k, v}, scale, false, mixed);
                         }};
  const auto gate = [&](const Weights& w) { ops::gated_linear(ctx, normed, w.gate_up, part(2 * ffn), product); };
  const std::string title =
      fmt::format("{}, {} rows, a block as the engine runs it{}", blocks.model, rows,
                  rank > 0 ? fmt::format(", with terms of rank {} on all projections", rank) : "");
  if (blocks.is_parallel) {
    const auto sum = [&](const Weights& w) { ops::linear_sum(ctx, mixed, w.out, product, w.down, projected); };
    const BlockStep add{"add and norm", 0, [&](size_t) {
                          ops::add_gated_adaptive_norm(ctx, projected, norm, x, {norm, norm, kEps}, normed);
                        }};
    return measure_in_order(bench, title, blocks.count, {qkv_step, attend, step(1, gate), step(2, sum), add});
  }
  const BlockStep add{"add and norm", 0, [&](size_t) {
                        ops::add_gated_rms_norm(ctx, projected, {norm, norm, kEps}, x, {norm, norm, normed});
                      }};
  const auto out = [&](const Weights& w) { ops::linear(ctx, mixed, w.out, projected); };
  const auto down = [&](const Weights& w) { ops::linear(ctx, product, w.down, projected); };
  measure_in_order(bench, title, blocks.count,
                   {qkv_step, attend, step(1, out), add, step(2, gate), step(3, down), add});
}

/// An 8-bit weight, and the memory that holds it.
struct HeldInt8 {
  Tensor numbers, scales;
  Int8Weight weight;
};

/// The same block with products of 8-bit numbers.
void measure_int8_block(Context& ctx, Bench& bench, const Blocks& blocks, int64_t rows) {
  constexpr int64_t kRotation = 256;
  const int64_t hidden = blocks.hidden(), ffn = blocks.ffn, heads = blocks.heads, head_dim = Blocks::kHeadDim;
  const auto quantised = [&](int64_t out, int64_t in) {
    HeldInt8 held{Tensor(ctx.device(), DType::i8, {out, in}), Tensor(ctx.device(), DType::f32, {out}), {}};
    ops::quantise_rows(ctx, bench.random(DType::bf16, {out, in}), kRotation, held.numbers, held.scales);
    ctx.synchronize("measurement");
    held.weight = {kRotation, held.numbers.view(), held.scales.view()};
    return held;
  };
  std::vector<std::array<HeldInt8, 4>> weights;
  for (size_t set = 0; set < kWeightSets; ++set)
    weights.push_back(
        {quantised(3 * hidden, hidden), quantised(hidden, hidden), quantised(2 * ffn, hidden), quantised(hidden, ffn)});
  const Tensor norm = bench.random(DType::f32, {hidden}), head_norm = bench.random(DType::f32, {head_dim});
  const Tensor cos = bench.random(DType::f32, {rows, head_dim / 2}),
               sin = bench.random(DType::f32, {rows, head_dim / 2});
  const auto random = [&](const Shape& shape) { return bench.random(DType::bf16, shape); };
  Tensor x = bench.random(DType::f32, {rows, hidden}), mixed = random({rows, hidden}), product = random({rows, ffn}),
         qkv = random({rows, 3 * hidden}), projected = random({rows, hidden});
  Tensor numbers(ctx.device(), DType::i8, {rows, ffn}), scales(ctx.device(), DType::f32, {rows});
  const std::vector<Width> products = blocks.products();
  const auto round = [&](const char* name, ConstView from) {
    return BlockStep{name, 0, [&, from](size_t) {
                       const View to(numbers.view().bytes(), DType::i8, from.shape());
                       ops::quantise_rows(ctx, from, kRotation, to, scales);
                     }};
  };
  const auto step = [&](size_t which, View out, bool gated) {
    return BlockStep{products[which].name, product_flops(rows, products[which]), [&, which, out, gated](size_t set) {
                       const Int8Weight& w = weights[set][which].weight;
                       const ops::RoundedRows from{
                           ConstView(numbers.view().bytes(), DType::i8, {rows, w.numbers.shape()[1]}), scales};
                       gated ? ops::int8_gated_linear(ctx, from, w, {}, out) : ops::int8_linear(ctx, from, w, out);
                     }};
  };
  const auto attend = [&](bool rounded) {
    return BlockStep{"rotation and attention", attention_flops(heads, rows, rows, head_dim), [&, rounded](size_t) {
                       const ops::RotaryHeads rotary{head_norm, head_norm, kEps, cos, sin, kPairs};
                       const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
                       ops::packed_attention(ctx, qkv, rotary, {heads, heads}, {scale, rounded}, mixed);
                     }};
  };
  const BlockStep add{"add and norm in 8 bits", 0, [&](size_t) {
                        const View to(numbers.view().bytes(), DType::i8, {rows, hidden});
                        ops::add_gated_rms_norm(ctx, projected, {norm, norm, kEps}, x, {norm, norm, to, scales});
                      }};
  for (const bool rounded : {false, true})
    measure_in_order(bench,
                     fmt::format("{}, {} rows, a block with products{} of 8-bit numbers", blocks.model, rows,
                                 rounded ? " and attention" : ""),
                     blocks.count,
                     {step(0, qkv, false), attend(rounded), round("round for out", mixed), step(1, projected, false),
                      add, step(2, product, true), round("round for down", product), step(3, projected, false), add});
}

void run(const BlockArguments& only) {
  Context ctx({DeviceKind::cuda, 0}, 0, FolderCache::in(cache_folder()));
  fmt::print("{}; medians, (TFLOP/s of products)\n", cuda::device_properties(0).name);
  Bench bench(ctx);
  for (const int64_t rows : only.rows)
    for (const int64_t rank : {int64_t{0}, kAdapterRank}) measure_block(ctx, bench, only.blocks, rows, rank);
  if (only.blocks.model == kZImage.model)
    for (const int64_t rows : only.rows) measure_int8_block(ctx, bench, only.blocks, rows);
  if (!only.rows.empty()) return;
  measure_int8_block(ctx, bench, kZImage, 4160);
  for (const int64_t rows : {4160, 3680, 2112, 16448}) measure_block(ctx, bench, kZImage, rows);
  for (const int64_t rows : {4608, 8704}) measure_block(ctx, bench, kKlein, rows);
  measure_block(ctx, bench, kZImage, 4160, kAdapterRank);
  measure_block(ctx, bench, kKlein, 4608, kAdapterRank);
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  try {
    nostos::run({argc, argv});
    return 0;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
