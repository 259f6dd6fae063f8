// Owns what the programs that print rates share: random operands, times of ops run back to back and in a model's order.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "device/stream.h"
#include "ops/elementwise.h"
#include "tensor/tensor.h"
#include "tensor/transfer.h"

namespace nostos {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// \return a tensor on the context's device of normally distributed values, mean 0 and deviation 1, that depend on the
/// seed. The shape matters to the time: a card at its power limit multiplies uniform values faster, and a model's
/// weights and activations are bell-shaped.
inline Tensor random_operand(Context& ctx, DType dtype, const Shape& shape, uint32_t seed) {
  constexpr int64_t kPattern = (1 << 20) + 7;  // no multiple of a row, so that rows differ
  Tensor host(Device{}, DType::f32, {kPattern}), made(ctx.device(), dtype, shape),
      source(ctx.device(), DType::f32, {kPattern});
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::generate_n(host.data<float>(), kPattern, [&] { return normal(generator); });
  upload(ctx, host, source);
  const View flat = made.view().reshape({shape.elements()});
  for (int64_t i = 0; i < shape.elements(); i += kPattern) {
    const int64_t count = std::min(kPattern, shape.elements() - i);
    ops::convert(ctx, source.view().rows(0, count), flat.rows(i, count));
  }
  ctx.synchronize("measurement");
  return made;
}

class Bench {
 public:
  explicit Bench(Context& ctx) : ctx_(ctx) {}

  Tensor random(DType dtype, const Shape& shape) { return random_operand(ctx_, dtype, shape, ++seed_); }

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

/// The blocks of a full-size transformer.
struct Blocks {
  std::string_view model;
  int64_t heads = 0, ffn = 0;
  size_t count = 0;
  bool is_parallel = false;  ///< whether attention and feed-forward layer read one norm and share their last product
  static constexpr int64_t kHeadDim = 128;

  int64_t hidden() const { return heads * kHeadDim; }
  /// \return a block's products in their order; attention follows the first.
  std::vector<Width> products() const {
    const int64_t d = hidden();
    const Width qkv{"qkv", d, 3 * d}, gate_up{"gate+up", d, 2 * ffn};
    if (is_parallel) return {qkv, gate_up, {"out+down", d + ffn, d}};
    return {qkv, {"out", d, d}, gate_up, {"down", ffn, d}};
  }
};
inline constexpr Blocks kZImage{"z-image", 30, 10240, 32, false};
/// FLUX.2-klein-4B; its five blocks of two streams, too, stand as parallel ones, which take the least time.
inline constexpr Blocks kKlein{"klein", 24, 9216, 25, true};

/// What the programs of blocks are told: a model, then numbers of rows.
struct BlockArguments {
  Blocks blocks = kZImage;
  std::vector<int64_t> rows;

  BlockArguments(int argc, char** argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    for (const std::string& word : words) {
      if (word == kKlein.model)
        blocks = kKlein;
      else if (word != kZImage.model)
        rows.push_back(std::stoll(word));
    }
  }
};

inline double product_flops(int64_t rows, const Width& width) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(width.in) * static_cast<double>(width.out);
}

inline double attention_flops(int64_t heads, int64_t queries, int64_t keys, int64_t width) {
  return 4.0 * static_cast<double>(heads) * static_cast<double>(queries) * static_cast<double>(keys) *
         static_cast<double>(width);
}

/// One op of a transformer's block.
struct BlockStep {
  std::string name;
  double flops = 0;                    ///< of its products; 0: it has none
  std::function<void(size_t set)> op;  ///< with one of kWeightSets sets of weights, so that no cache holds them
};
inline constexpr size_t kWeightSets = 4;

/// Runs the steps of `count` blocks in their order for several seconds and prints the median time of each: what a card
/// can sustain at its power limit shows only then.
inline void measure_in_order(Bench& bench, const std::string& title, size_t count,
                             const std::vector<BlockStep>& block) {
  constexpr size_t kForwards = 6;  // that many without a pause
  constexpr double kSeconds = 4;
  std::vector<std::function<void()>> steps;
  for (size_t i = 0; i < count * kForwards; ++i)
    for (const BlockStep& step : block) steps.push_back([&step, i] { step.op(i % kWeightSets); });
  bench.time({steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(block.size())});
  // The first half brings the card to its temperature and clocks.
  std::vector<float> times;
  size_t forwards = 0;
  for (const double begin = seconds_now(); seconds_now() < begin + kSeconds;) {
    const bool counts = seconds_now() > begin + kSeconds / 2;
    const std::vector<float> of_some = bench.time(steps);
    if (!counts) continue;
    times.insert(times.end(), of_some.begin(), of_some.end());
    forwards += kForwards;
  }
  fmt::print("{}:", title);
  double forward_ms = 0, total_ms = 0;
  for (size_t kind = 0; kind < block.size(); ++kind) {
    std::vector<float> of_kind;
    for (size_t i = kind; i < times.size(); i += block.size()) of_kind.push_back(times[i]);
    std::ranges::sort(of_kind);
    const double ms = static_cast<double>(of_kind[of_kind.size() / 2]);
    fmt::print(" {} {:.4f} ms", block[kind].name, ms);
    if (block[kind].flops > 0) fmt::print(" ({:.0f})", block[kind].flops / ms * 1e-9);
    forward_ms += ms * static_cast<double>(count);
  }
  for (const float ms : times) total_ms += static_cast<double>(ms);
  fmt::print("\n  a forward of {} blocks: {:.2f} ms by medians, {:.2f} ms in all\n", count, forward_ms,
             total_ms / static_cast<double>(forwards));
}

}  // namespace nostos
