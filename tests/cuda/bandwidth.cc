// Prints the memory bandwidth of CUDA's own kernels at the full model's shapes beside that of a device copy in the same
// run.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda/rates.h"
#include "device/cuda/runtime.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "ops/patches.h"
#include "ops/stored_weight.h"

namespace nostos {
namespace {

// Operands are used in turn, so that no kernel finds its own in the L2 cache.
constexpr int kTurns = 4;
constexpr int kBatch = 16;  // launches between two events
constexpr int kRuns = 9;
constexpr float kEps = 1e-5f;

class BandwidthBench {
 public:
  explicit BandwidthBench(Context& ctx) : ctx_(ctx) {}

  /// kTurns tensors of small random values.
  std::vector<Tensor> tensors(DType dtype, const Shape& shape) {
    std::vector<Tensor> made;
    for (int turn = 0; turn < kTurns; ++turn) made.push_back(random(dtype, shape));
    return made;
  }

  /// Times `op` (turn) and prints its rate. \param bytes that it must read and write at least.
  void measure(const std::string& name, size_t bytes, const std::function<void(size_t)>& op) {
    std::vector<float> times;
    for (int run = 0; run < kRuns + 1; ++run) {  // the first warms up
      Event begin(ctx_.device(), true), end(ctx_.device(), true);
      begin.record(ctx_.stream());
      for (int launch = 0; launch < kBatch; ++launch) op(static_cast<size_t>(launch % kTurns));
      end.record(ctx_.stream());
      ctx_.synchronize("measurement");
      if (run > 0) times.push_back(Event::elapsed_ms(begin, end) / kBatch);
    }
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    const double ms = static_cast<double>(times[kRuns / 2]);
    const double rate = static_cast<double>(bytes) / ms * 1e-6;
    if (copy_rate_ == 0) copy_rate_ = rate;
    fmt::print("{:<48} {:>9.1f} MB {:>9.4f} ms {:>8.0f} GB/s {:>5.0f} %\n", name, static_cast<double>(bytes) * 1e-6, ms,
               rate, 100 * rate / copy_rate_);
  }

 private:
  Tensor random(DType dtype, const Shape& shape) { return random_operand(ctx_, dtype, shape, ++seed_); }

  Context& ctx_;
  uint32_t seed_ = 0;
  double copy_rate_ = 0;
};

size_t bytes_of(std::initializer_list<ConstView> views) {
  size_t bytes = 0;
  for (const ConstView& view : views) bytes += view.size_in_bytes();
  return bytes;
}

/// A transformer block of Z-Image at 1024x1024: 4128 rows.
void measure_block(Context& ctx, BandwidthBench& bench, DType product) {
  constexpr int64_t kRows = 4128, kHidden = 3840, kFfn = 10240, kHeads = 30, kHeadDim = 128;
  const std::string of = product == DType::bf16 ? " (bf16 products)" : " (f32 products)";
  auto x = bench.tensors(DType::f32, {kRows, kHidden}), normed = bench.tensors(DType::bf16, {kRows, kHidden});
  auto projected = bench.tensors(product, {kRows, kHidden}), vectors = bench.tensors(DType::f32, {kHidden});
  bench.measure("rms_norm scaled 4128x3840 to bf16", bytes_of({x[0], normed[0]}),
                [&](size_t i) { ops::rms_norm(ctx, x[i], vectors[0], vectors[1], kEps, normed[i]); });
  bench.measure("add_gated_rms_norm 4128x3840" + of, bytes_of({x[0], x[0], projected[0]}), [&](size_t i) {
    ops::add_gated_rms_norm(ctx, projected[i], {vectors[0], vectors[1], kEps}, x[i]);
  });
  bench.measure("the same and the next rms_norm" + of, bytes_of({x[0], x[0], projected[0], normed[0]}), [&](size_t i) {
    ops::add_gated_rms_norm(ctx, projected[i], {vectors[0], vectors[1], kEps}, x[i],
                            {vectors[2], vectors[3], normed[i]});
  });
  {
    auto qkv = bench.tensors(product, {kRows, 3 * kHeads * kHeadDim}),
         heads = bench.tensors(DType::bf16, {3 * kHeads, kRows, kHeadDim}),
         tables = bench.tensors(DType::f32, {kRows, kHeadDim / 2}), norms = bench.tensors(DType::f32, {kHeadDim});
    bench.measure(
        "split_heads_rope 4128, 30 heads" + of, bytes_of({qkv[0], heads[0], tables[0], tables[1]}), [&](size_t i) {
          const auto part = [&](int64_t n) { return heads[i].view().rows(n * kHeads, kHeads); };
          ops::split_heads_rope(ctx, qkv[i],
                                {norms[0], norms[1], kEps, tables[0], tables[1], ops::RotaryPairs::interleaved},
                                std::array{ops::HeadGroup{part(0), part(1), part(2)}});
        });
  }
  auto gate_up = bench.tensors(product, {kRows, 2 * kFfn}), ffn = bench.tensors(DType::bf16, {kRows, kFfn});
  bench.measure("silu_mul 4128x10240" + of, bytes_of({gate_up[0], ffn[0]}),
                [&](size_t i) { ops::silu_mul(ctx, gate_up[i], ffn[i]); });
}

/// What runs once a step or less, and what sharding adds.
void measure_edges(Context& ctx, BandwidthBench& bench) {
  constexpr int64_t kRows = 4128, kHidden = 3840, kHeads = 30, kHeadDim = 128;
  auto x = bench.tensors(DType::f32, {kRows, kHidden}), out = bench.tensors(DType::f32, {kRows, kHidden}),
       scale = bench.tensors(DType::f32, {kHidden});
  bench.measure("layer_norm_scaled 4128x3840 to f32", bytes_of({x[0], out[0]}),
                [&](size_t i) { ops::layer_norm_scaled(ctx, x[i], scale[0], kEps, out[i]); });
  auto lse = bench.tensors(DType::f32, {kHeads, kRows});
  bench.measure("merge_attention 4128, 30 heads", bytes_of({x[0], out[0], out[0], lse[0], lse[1], lse[1]}),
                [&](size_t i) { ops::merge_attention(ctx, x[i], lse[0], out[i], lse[1]); });
  auto from = bench.tensors(DType::bf16, {kHeads, kRows, kHeadDim}),
       to = bench.tensors(DType::bf16, {kHeads, kRows, kHeadDim});
  std::vector<ops::RowRun> runs;
  for (int64_t i = 0; i < 96; ++i) runs.push_back({i * 43, (95 - i) * 43, 43});
  bench.measure("copy_rows 30x4128x128 bf16, 96 runs", bytes_of({from[0], to[0]}),
                [&](size_t i) { ops::copy_rows(ctx, from[i], to[i], runs); });
  bench.measure("convert 4128x3840 f32 to bf16", bytes_of({x[0], from[0]}),
                [&](size_t i) { ops::convert(ctx, x[i].view().reshape(from[i].shape()), from[i]); });
  auto ids = bench.tensors(DType::f32, {4096, 64}), squares = bench.tensors(DType::f32, {4096, 4});
  bench.measure("guide 4096x64", bytes_of({ids[0], ids[1], ids[2]}), [&](size_t i) {
    ops::guide(ctx, ids[0], ids[1], 4, ids[2], View(squares[i].view().bytes(), DType::f64, {4096, 2}));
  });
  const auto delta = bench.tensors(DType::f32, {1});
  bench.measure("euler_step 4096x64", bytes_of({ids[0], ids[1], ids[1]}),
                [&](size_t) { ops::euler_step(ctx, ids[0], delta[0], ids[1]); });
}

/// The decoder at 1024x1024: each of its resolutions.
void measure_decoder(Context& ctx, BandwidthBench& bench, DType product) {
  const std::string of = product == DType::bf16 ? " (bf16 image)" : " (f32 image)";
  struct Level {
    int64_t size, channels;
  };
  for (const Level& level : {Level{128, 512}, {256, 512}, {512, 512}, {512, 256}, {1024, 256}, {1024, 128}}) {
    const std::string at = fmt::format("{}x{}x{}", level.size, level.size, level.channels);
    auto image = bench.tensors(product, {level.size, level.size, level.channels}),
         normed = bench.tensors(DType::bf16, image[0].shape());
    auto vectors = bench.tensors(DType::f32, {level.channels});
    Tensor sums(ctx.device(), DType::f64, {level.size, 32, 2});
    bench.measure("group_norm_row_sums " + at + of, bytes_of({image[0]}),
                  [&](size_t i) { ops::group_norm_row_sums(ctx, image[i], sums); });
    bench.measure("group_norm_apply with SiLU " + at + of, bytes_of({image[0], normed[0]}), [&](size_t i) {
      ops::group_norm_apply(ctx, image[i], sums, image[i].shape()[1], {vectors[0], vectors[1], kEps, true}, normed[i]);
    });
  }
  auto image = bench.tensors(product, {512, 512, 256}), larger = bench.tensors(DType::bf16, {1024, 1024, 256});
  bench.measure("upsample_nearest_2x 512x512x256" + of, bytes_of({image[0], larger[0]}),
                [&](size_t i) { ops::upsample_nearest_2x(ctx, image[i], larger[i]); });
  auto rgb = bench.tensors(product, {1024, 1024, 3});
  Tensor pixels(ctx.device(), DType::u8, {1024, 1024, 3}), invalid(ctx.device(), DType::i32, {1});
  bench.measure("to_pixels 1024x1024x3" + of, bytes_of({rgb[0], pixels}),
                [&](size_t i) { ops::to_pixels(ctx, rgb[i], pixels, invalid); });
}

/// \return random bytes [kTurns, bytes] that are neither NaN nor infinite as 8-bit floats, as no weights are.
Tensor stored_bytes(Context& ctx, int64_t bytes) {
  Tensor host(Device{}, DType::u8, {kTurns, bytes}), made(ctx.device(), DType::u8, {kTurns, bytes});
  std::mt19937 generator(1);
  std::generate_n(host.data<uint8_t>(), kTurns * bytes, [&] { return static_cast<uint8_t>(generator() & 0xbfu); });
  upload(ctx, host, made);
  ctx.synchronize("measurement");
  return made;
}

/// Weights that stay as they are stored, of the shape of Z-Image's fused projection.
void measure_stored(Context& ctx, BandwidthBench& bench) {
  auto numbers = bench.tensors(DType::bf16, {11520, 3840});
  for (const WeightFormat& format :
       {WeightFormat{StoredType::q4_0}, WeightFormat{StoredType::q8_0}, WeightFormat{StoredType::q4_k},
        WeightFormat{StoredType::q5_k}, WeightFormat{StoredType::q6_k}, WeightFormat{StoredType::iq4_xs},
        WeightFormat{StoredType::f8_e4m3}, WeightFormat{StoredType::f8_e5m2}, WeightFormat{StoredType::i8},
        WeightFormat{StoredType::i8, WeightScales::none, 256}}) {
    StoredMatrix matrix = StoredMatrix::whole(format, 11520, 3840, nullptr);
    const Tensor stored = stored_bytes(ctx, static_cast<int64_t>(matrix.size_in_bytes()));
    const std::string of =
        format.rotation > 0 ? fmt::format("rotated {} ", name(format.type)) : fmt::format("{} ", name(format.type));
    bench.measure("dequantise " + of + "11520x3840", matrix.size_in_bytes() + bytes_of({numbers[0]}), [&](size_t i) {
      matrix.data = stored.view().rows(static_cast<int64_t>(i), 1).bytes();
      ops::dequantise(ctx, std::array{StoredPiece{matrix, 0, matrix.rows, matrix.rows}}, numbers[i]);
    });
  }
}

void run() {
  Context ctx({DeviceKind::cuda, 0});
  const cuda::DeviceProperties& device = cuda::device_properties(0);
  fmt::print("{}, {} multiprocessors, compute capability {}; medians of {} runs of {} launches; % of the device copy\n",
             device.name, device.multiprocessors, device.compute_capability, kRuns, kBatch);
  BandwidthBench bench(ctx);
  {
    auto from = bench.tensors(DType::bf16, {int64_t{1} << 29}), to = bench.tensors(DType::bf16, {int64_t{1} << 29});
    bench.measure("device copy of 1 GiB", bytes_of({from[0], to[0]}),
                  [&](size_t i) { ops::convert(ctx, from[i], to[i]); });
  }
  for (const DType product : {DType::bf16, DType::f32}) measure_block(ctx, bench, product);
  measure_edges(ctx, bench);
  measure_stored(ctx, bench);
  for (const DType product : {DType::bf16, DType::f32}) measure_decoder(ctx, bench, product);
}

}  // namespace
}  // namespace nostos

int main() {
  try {
    nostos::run();
    return 0;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
