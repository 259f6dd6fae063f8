// Prints the rates of matrix products, attention and convolutions at the full model's shapes: each alone, and
// sustained in the order of a transformer's blocks, which is the ceiling that a forward is compared with.
//   cuda_library_rates [TOKENS ...]   with numbers of tokens only the forwards of these
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/runtime.h"
#include "device/stream.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  explicit Bench(Context& ctx) : ctx_(ctx) {}

  Tensor random(DType dtype, const Shape& shape) {
    constexpr int64_t kPattern = (1 << 20) + 7;  // no multiple of a row, so that rows differ
    Tensor host(Device{}, DType::f32, {kPattern}), made(ctx_.device(), dtype, shape),
        source(ctx_.device(), DType::f32, {kPattern});
    uint32_t state = ++seed_;
    for (int64_t i = 0; i < kPattern; ++i) {
      state = state * 1664525u + 1013904223u;
      host.data<float>()[i] = static_cast<float>(state >> 8) * 0x1p-23f - 1.f;
    }
    upload(ctx_, host, source);
    const View flat = made.view().reshape({shape.elements()});
    for (int64_t i = 0; i < shape.elements(); i += kPattern) {
      const int64_t count = std::min(kPattern, shape.elements() - i);
      ops::convert(ctx_, source.view().rows(0, count), flat.rows(i, count));
    }
    ctx_.synchronize("measurement");
    return made;
  }

  /// Prints the median time of `op`, run back to back, and what its first run took on the host: compilation and tuning.
  void measure(const std::string& name, double flops, const std::function<void()>& op) {
    const double begin = seconds_now();
    op();
    ctx_.synchronize("measurement");
    const double first_s = seconds_now() - begin;
    const float rough_ms = time({op, op}).front();
    const int runs =
        std::clamp(static_cast<int>(60 / rough_ms), 5, 100);  // 60 ms: long enough for the card's clocks to settle
    std::vector<float> times = time(std::vector<std::function<void()>>(static_cast<size_t>(runs), op));
    std::ranges::sort(times);
    const double ms = static_cast<double>(times[times.size() / 2]);
    fmt::print("{:<52} {:>9.4f} ms {:>7.0f} TFLOP/s   first run {:.2f} s\n", name, ms, flops / ms * 1e-9, first_s);
  }

  /// \return milliseconds of each op, run one after the other without a wait between them.
  std::vector<float> time(const std::vector<std::function<void()>>& ops) {
    std::vector<Event> marks;
    for (size_t i = 0; i <= ops.size(); ++i) marks.emplace_back(ctx_.device(), true);
    marks[0].record(ctx_.stream());
    for (size_t i = 0; i < ops.size(); ++i) {
      ops[i]();
      marks[i + 1].record(ctx_.stream());
    }
    ctx_.synchronize("measurement");
    std::vector<float> times;
    for (size_t i = 0; i < ops.size(); ++i) times.push_back(Event::elapsed_ms(marks[i], marks[i + 1]));
    return times;
  }

 private:
  Context& ctx_;
  uint32_t seed_ = 0;
};

struct Width {
  const char* name;
  int64_t in, out;
};
const Width kTransformer[] = {{"qkv", 3840, 11520}, {"out", 3840, 3840}, {"w1+w3", 3840, 20480}, {"w2", 10240, 3840}};
const Width kEncoder[] = {{"qkv", 2560, 6144}, {"out", 4096, 2560}, {"gate+up", 2560, 19456}, {"down", 9728, 2560}};

double product_flops(int64_t rows, const Width& width) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(width.in) * static_cast<double>(width.out);
}

void measure_products(Context& ctx, Bench& bench) {
  const auto measure = [&](const char* model, const Width& width, int64_t rows, DType y_dtype) {
    const Linear weight = ops::pack_linear(ctx, bench.random(DType::bf16, {width.out, width.in}));
    const Tensor x = bench.random(DType::bf16, {rows, width.in});
    Tensor y(ctx.device(), y_dtype, {rows, width.out});
    bench.measure(fmt::format("{} {} {} x {} x {} to {}", model, width.name, rows, width.out, width.in, name(y_dtype)),
                  product_flops(rows, width), [&] { ops::linear(ctx, x, weight, y); });
  };
  for (const int64_t rows : {4128, 3632, 2057, 16448, 32})
    for (const Width& width : kTransformer) measure("DiT", width, rows, DType::bf16);
  for (const Width& width : kTransformer) measure("DiT", width, 4128, DType::f32);
  for (const Width& width : kEncoder) measure("text", width, 64, DType::bf16);
}

double attention_flops(int64_t heads, int64_t queries, int64_t keys, int64_t width) {
  return 4.0 * static_cast<double>(heads) * static_cast<double>(queries) * static_cast<double>(keys) *
         static_cast<double>(width);
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
    bench.measure(fmt::format("attention {} heads, {} tokens, width {}{}", c.heads, c.tokens, c.width,
                              c.causal ? ", causal" : ""),
                  attention_flops(c.heads, c.tokens, c.tokens, c.width),
                  [&] { ops::attention(ctx, q, k, v, scale, c.causal, out); });
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
    const auto op = [&] { ops::conv2d(ctx, x, filter, 1, {pad, pad, pad, pad}, y, c.accumulate); };
    const double flops = 2.0 * static_cast<double>(c.size * c.size * c.in * c.out * c.kernel * c.kernel);
    bench.measure(fmt::format("conv {}x{} {} to {}, kernel {}{} (x{})", c.size, c.size, c.in, c.out, c.kernel,
                              c.accumulate ? ", adding" : "", c.count),
                  flops, op);
    std::vector<float> times = bench.time({op, op, op});
    decoder_ms += static_cast<double>(*std::ranges::min_element(times)) * static_cast<double>(c.count);
  }
  fmt::print("convolutions of a decoder at 1024x1024 about {:.2f} ms\n", decoder_ms);
}

/// The products and attention of a forward's 32 blocks in their order, several times over, each block with its own
/// weights.
void measure_blocks(Context& ctx, Bench& bench, int64_t tokens) {
  constexpr int64_t kHeads = 30, kWidth = 128, kBlocks = 32, kForwards = 6;
  constexpr size_t kWeightSets = 4;  // 1.4 GB: more than any cache
  std::vector<std::vector<Linear>> weights(kWeightSets);
  for (std::vector<Linear>& set : weights) {
    for (const Width& width : kTransformer)
      set.push_back(ops::pack_linear(ctx, bench.random(DType::bf16, {width.out, width.in})));
  }
  const Tensor q = bench.random(DType::bf16, {kHeads, tokens, kWidth}), k = bench.random(DType::bf16, q.shape()),
               v = bench.random(DType::bf16, q.shape());
  Tensor mixed(ctx.device(), DType::bf16, {tokens, kHeads * kWidth});
  const Tensor narrow = bench.random(DType::bf16, {tokens, 3840}), wide = bench.random(DType::bf16, {tokens, 10240});
  Tensor y(ctx.device(), DType::bf16, {tokens, 20480});
  std::vector<std::function<void()>> steps;
  const auto product = [&](size_t set, size_t which) {
    const Linear& weight = weights[set][which];
    ops::linear(ctx, weight.in == 3840 ? narrow : wide, weight,
                View(y.view().bytes(), DType::bf16, {tokens, weight.out}));
  };
  for (size_t block = 0; block < kBlocks * kForwards; ++block) {
    const size_t set = block % kWeightSets;
    steps.push_back([&, set] { product(set, 0); });
    steps.push_back([&] { ops::attention(ctx, q, k, v, 0.088f, false, mixed); });
    for (const size_t which : {1, 2, 3}) steps.push_back([&, set, which] { product(set, which); });
  }
  bench.time({steps.begin(), steps.begin() + 5});
  const std::vector<float> times = bench.time(steps);
  const char* const names[] = {"qkv", "attention", "out", "w1+w3", "w2"};
  fmt::print("{} tokens, sustained in model order:", tokens);
  double forward_ms = 0;
  for (size_t kind = 0; kind < 5; ++kind) {
    std::vector<float> of_kind;
    for (size_t i = kind; i < times.size(); i += 5) of_kind.push_back(times[i]);
    std::ranges::sort(of_kind);
    const double ms = static_cast<double>(of_kind[of_kind.size() / 2]);
    const double flops = kind == 1 ? attention_flops(kHeads, tokens, tokens, kWidth)
                                   : product_flops(tokens, kTransformer[kind == 0 ? 0 : kind - 1]);
    fmt::print(" {} {:.4f} ms ({:.0f})", names[kind], ms, flops / ms * 1e-9);
    forward_ms += ms * kBlocks;
  }
  double total_ms = 0;
  for (const float ms : times) total_ms += static_cast<double>(ms);
  fmt::print("\n  a forward of {} blocks: {:.2f} ms by medians, {:.2f} ms in all\n", kBlocks, forward_ms,
             total_ms / kForwards);
}

/// \param token_counts of the only forwards to measure; empty: everything.
void run(const std::vector<int64_t>& token_counts) {
  Context ctx({DeviceKind::cuda, 0});
  fmt::print("{}; medians of back-to-back runs, (TFLOP/s)\n", cuda::device_properties(0).name);
  Bench bench(ctx);
  for (const int64_t tokens : token_counts) measure_blocks(ctx, bench, tokens);
  if (!token_counts.empty()) return;
  measure_products(ctx, bench);
  measure_attention(ctx, bench);
  for (const int64_t tokens : {4128, 3632, 2057, 16448}) measure_blocks(ctx, bench, tokens);
  measure_convolutions(ctx, bench);
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  try {
    std::vector<int64_t> token_counts;
    for (int i = 1; i < argc; ++i) token_counts.push_back(std::stoll(argv[i]));
    nostos::run(token_counts);
    return 0;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
