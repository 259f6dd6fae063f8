// Prints the times of the full transformer's blocks op by op, as the engine runs them on one rank: kernels of our own
// where there are any. Beside cuda_library_rates of the same rows it shows what each part costs above the ceilings.
//   cuda_block_rates [ROWS ...]
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cuda/rates.h"
#include "device/cuda/runtime.h"
#include "io/environment.h"
#include "io/folder_cache.h"
#include "ops/attention.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace nostos {
namespace {

constexpr int64_t kHeads = 30, kHeadDim = 128, kHidden = kHeads * kHeadDim, kFfn = 10240;
constexpr float kEps = 1e-5f;
constexpr ops::RotaryPairs kPairs = ops::RotaryPairs::interleaved;

struct Weights {
  Linear qkv, out, down;
  GatedLinear gate_up;
};

void measure_block(Context& ctx, Bench& bench, int64_t rows) {
  const auto random = [&](const Shape& shape) { return bench.random(DType::bf16, shape); };
  std::vector<Weights> weights;
  for (size_t set = 0; set < kWeightSets; ++set) {
    // Random rows: whether gates are interleaved makes no difference to the time.
    const bool is_fused = ops::fuses_gated_linear(ctx.device(), DType::bf16, {kHidden, kFfn, false});
    weights.push_back({ops::pack_linear(ctx, random({3 * kHidden, kHidden})),
                       ops::pack_linear(ctx, random({kHidden, kHidden})),
                       ops::pack_linear(ctx, random({kHidden, kFfn})),
                       {ops::pack_linear(ctx, random({2 * kFfn, kHidden})), is_fused}});
  }
  const Tensor norm = bench.random(DType::f32, {kHidden}), head_norm = bench.random(DType::f32, {kHeadDim});
  const Tensor cos = bench.random(DType::f32, {rows, kHeadDim / 2}),
               sin = bench.random(DType::f32, {rows, kHeadDim / 2});
  Tensor x = bench.random(DType::f32, {rows, kHidden}), normed = random({rows, kHidden}),
         projected = random({rows, kHidden});
  Tensor mixed = random({rows, kHidden}), product = random({rows, kFfn}), scratch = random({rows, 2 * kFfn});
  const bool is_packed = ops::packs_attention(ctx.device(), DType::bf16, kHeadDim, false);
  Tensor q, k, v;
  if (!is_packed) q = random({kHeads, rows, kHeadDim}), k = random(q.shape()), v = random(q.shape());
  const auto part = [&](int64_t columns) { return View(scratch.view().bytes(), DType::bf16, {rows, columns}); };
  const View qkv = part(3 * kHidden);
  const auto add = [&](size_t) {
    ops::add_gated_rms_norm(ctx, projected, {norm, norm, kEps}, x, {norm, norm, normed});
  };
  const float scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
  measure_in_order(
      bench, fmt::format("{} rows, a block as the engine runs it", rows),
      {{"qkv", product_flops(rows, kTransformer[0]),
        [&](size_t set) { ops::linear(ctx, normed, weights[set].qkv, qkv); }},
       {"rotation and attention", attention_flops(kHeads, rows, rows, kHeadDim),
        [&](size_t) {
          if (is_packed) {
            ops::packed_attention(ctx, qkv, {head_norm, head_norm, kEps, cos, sin, kPairs}, {kHeads, kHeads}, scale,
                                  mixed);
            return;
          }
          ops::split_heads_rope(ctx, qkv, {head_norm, head_norm, kEps, cos, sin, kPairs},
                                std::array{ops::HeadGroup{q, k, v}});
          ops::attention(ctx, {q, k, v}, scale, false, mixed);
        }},
       {"out", product_flops(rows, kTransformer[1]),
        [&](size_t set) { ops::linear(ctx, mixed, weights[set].out, projected); }},
       {"add and norm", 0, add},
       {"w1+w3 and gate", product_flops(rows, kTransformer[2]),
        [&](size_t set) { ops::gated_linear(ctx, normed, weights[set].gate_up, part(2 * kFfn), product); }},
       {"w2", product_flops(rows, kTransformer[3]),
        [&](size_t set) { ops::linear(ctx, product, weights[set].down, projected); }},
       {"add and norm", 0, add}});
}

void run(std::vector<int64_t> row_counts) {
  Context ctx({DeviceKind::cuda, 0}, 0, FolderCache::in(cache_folder()));
  fmt::print("{}; medians, (TFLOP/s of products)\n", cuda::device_properties(0).name);
  Bench bench(ctx);
  if (row_counts.empty()) row_counts = {4160, 3680, 2112, 16448};
  for (const int64_t rows : row_counts) measure_block(ctx, bench, rows);
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  try {
    std::vector<int64_t> row_counts;
    for (int i = 1; i < argc; ++i) row_counts.push_back(std::stoll(argv[i]));
    nostos::run(std::move(row_counts));
    return 0;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
