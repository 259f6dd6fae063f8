// Prints the rates of matrix products, attention and convolutions at the full model's shapes: each alone, and
// sustained in the order of a transformer's blocks, which is the ceiling that a forward is compared with.
//   cuda_library_rates [z-image|klein] [TOKENS ...]   with numbers of tokens only the forwards of these
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "cuda/rates.h"
#include "device/cuda/runtime.h"
#include "io/environment.h"
#include "io/folder_cache.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/linear.h"

namespace nostos {
namespace {

const Width kEncoder[] = {{"qkv", 2560, 6144}, {"out", 4096, 2560}, {"gate+up", 2560, 19456}, {"down", 9728, 2560}};

void measure_products(Context& ctx, Bench& bench) {
  const auto measure = [&](const char* model, const Width& width, int64_t rows, DType y_dtype) {
    const Linear weight = ops::pack_linear(ctx, bench.random(DType::bf16, {width.out, width.in}));
    const Tensor x = bench.random(DType::bf16, {rows, width.in});
    Tensor y(ctx.device(), y_dtype, {rows, width.out});
    bench.measure(fmt::format("{} {} {} x {} x {} to {}", model, width.name, rows, width.out, width.in, name(y_dtype)),
                  product_flops(rows, width), [&] { ops::linear(ctx, x, weight, y); });
  };
  for (const int64_t rows : {4128, 3632, 2057, 16448, 32})
    for (const Width& width : kZImage.products()) measure("DiT", width, rows, DType::bf16);
  for (const Width& width : kZImage.products()) measure("DiT", width, 4128, DType::f32);
  for (const Width& width : kEncoder) measure("text", width, 64, DType::bf16);
}

void measure_attention(Context& ctx, Bench& bench) {
  struct Case {
    int64_t heads, kv_heads, tokens, width;
    bool causal;
  };
  for (const Case& c : {Case{30, 30, 4128, 128, false},
                        {30, 30, 3632, 128, false},
                        {30, 30, 2057, 128, false},
                        {30, 30, 16448, 128, false},
                        {6, 6, 4224, 128, false},  // one round of tiles of 192 queries on 132 multiprocessors
                        {4, 4, 4224, 128, false},  // the same of 128 queries
                        {8, 8, 4128, 128, false},
                        {7, 7, 4128, 128, false},
                        {32, 8, 64, 128, true},
                        {1, 1, 16384, 512, false},
                        {1, 1, 65536, 512, false}}) {
    const Tensor q = bench.random(DType::bf16, {c.heads, c.tokens, c.width}),
                 k = bench.random(DType::bf16, {c.kv_heads, c.tokens, c.width}),
                 v = bench.random(DType::bf16, k.shape());
    Tensor out(ctx.device(), DType::bf16, {c.tokens, c.heads * c.width});
    const float scale = 1 / std::sqrt(static_cast<float>(c.width));
    for (const bool rounded : {false, true}) {
      if (rounded && (c.causal || !ops::rounds_attention(ctx.device(), DType::bf16, c.width))) continue;
      bench.measure(fmt::format("attention {} heads, {} tokens, width {}{}", c.heads, c.tokens, c.width,
                                c.causal  ? ", causal"
                                : rounded ? ", 8 bits"
                                          : ""),
                    attention_flops(c.heads, c.tokens, c.tokens, c.width), [&] {
                      ops::attention(ctx, {q, k, v}, {scale, rounded}, c.causal, out);
                    });
    }
  }
}

void measure_convolutions(Context& ctx, Bench& bench) {
  struct Case {
    int64_t size, in, out, kernel;
    bool accumulate;
    int64_t count;  ///< in a decoder at 1024x1024
  };
  double decoder_ms = 0;
  for (const Case& c : {Case{128, 16, 512, 3, false, 1},
                        {128, 512, 512, 3, false, 5},
                        {128, 512, 512, 3, true, 5},
                        {256, 512, 512, 3, false, 4},
                        {256, 512, 512, 3, true, 3},
                        {512, 512, 512, 3, false, 1},
                        {512, 512, 256, 3, false, 1},
                        {512, 512, 256, 1, false, 1},
                        {512, 256, 256, 3, false, 2},
                        {512, 256, 256, 3, true, 3},
                        {1024, 256, 256, 3, false, 1},
                        {1024, 256, 128, 3, false, 1},
                        {1024, 256, 128, 1, false, 1},
                        {1024, 128, 128, 3, false, 2},
                        {1024, 128, 128, 3, true, 3},
                        {1024, 128, 3, 3, false, 1}}) {
    const Tensor x = bench.random(DType::bf16, {c.size, c.size, c.in}), bias = bench.random(DType::f32, {c.out});
    const Conv2d filter = ops::pack_conv2d(ctx, bench.random(DType::bf16, {c.out, c.in, c.kernel, c.kernel}), bias);
    Tensor y = bench.random(DType::bf16, {c.size, c.size, c.out});
    const int64_t pad = c.kernel / 2;
    const auto op = [&] { ops::conv2d(ctx, x, filter, {1, {pad, pad, pad, pad}, c.accumulate}, y); };
    const double flops = 2.0 * static_cast<double>(c.size * c.size * c.in * c.out * c.kernel * c.kernel);
    bench.measure(fmt::format("conv {}x{} {} to {}, kernel {}{} (x{})", c.size, c.size, c.in, c.out, c.kernel,
                              c.accumulate ? ", adding" : "", c.count),
                  flops, op);
    std::vector<float> times = bench.time({op, op, op});
    decoder_ms += static_cast<double>(*std::ranges::min_element(times)) * static_cast<double>(c.count);
  }
  fmt::print("convolutions of a decoder at 1024x1024 about {:.2f} ms\n", decoder_ms);
}

/// The products and attention of a forward's blocks in their order.
void measure_blocks(Context& ctx, Bench& bench, const Blocks& blocks, int64_t tokens) {
  const std::vector<Width> products = blocks.products();
  std::vector<std::vector<Linear>> weights(kWeightSets);
  std::vector<Tensor> inputs;
  int64_t widest = 0;
  for (const Width& width : products) {
    for (std::vector<Linear>& set : weights)
      set.push_back(ops::pack_linear(ctx, bench.random(DType::bf16, {width.out, width.in})));
    inputs.push_back(bench.random(DType::bf16, {tokens, width.in}));
    widest = std::max(widest, width.out);
  }
  const Tensor q = bench.random(DType::bf16, {blocks.heads, tokens, Blocks::kHeadDim}),
               k = bench.random(DType::bf16, q.shape()), v = bench.random(DType::bf16, q.shape());
  Tensor mixed(ctx.device(), DType::bf16, {tokens, blocks.hidden()}), y(ctx.device(), DType::bf16, {tokens, widest});
  std::vector<BlockStep> steps;
  for (size_t i = 0; i < products.size(); ++i) {
    steps.push_back({products[i].name, product_flops(tokens, products[i]), [&, i](size_t set) {
                       const Linear& weight = weights[set][i];
                       ops::linear(ctx, inputs[i], weight, View(y.view().bytes(), DType::bf16, {tokens, weight.out}));
                     }});
    if (i == 0)
      steps.push_back({"attention", attention_flops(blocks.heads, tokens, tokens, Blocks::kHeadDim), [&](size_t) {
                         ops::attention(ctx, {q, k, v}, 0.088f, false, mixed);
                       }});
  }
  measure_in_order(bench, fmt::format("{}, {} tokens, sustained in model order", blocks.model, tokens), blocks.count,
                   steps);
}

/// \param only the forwards to measure; without rows: everything.
void run(const BlockArguments& only) {
  Context ctx({DeviceKind::cuda, 0}, 0, FolderCache::in(cache_folder()));
  fmt::print("{}; medians of back-to-back runs, (TFLOP/s)\n", cuda::device_properties(0).name);
  Bench bench(ctx);
  for (const int64_t tokens : only.rows) measure_blocks(ctx, bench, only.blocks, tokens);
  if (!only.rows.empty()) return;
  measure_products(ctx, bench);
  measure_attention(ctx, bench);
  for (const int64_t tokens : {4128, 3632, 2057, 16448}) measure_blocks(ctx, bench, kZImage, tokens);
  for (const int64_t tokens : {4608, 8704}) measure_blocks(ctx, bench, kKlein, tokens);
  measure_convolutions(ctx, bench);
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
