// Prints what a VAE decode takes on the GPU: its first run, its median, and where the time goes, op by op, with the
// full model's shapes and random weights. This ops::backend_of() takes the place of the library's and sets events around
// each op.
//   cuda_decoder_rates [folder of the model's configs]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/cuda/runtime.h"
#include "device/stopwatch.h"
#include "models/zimage_model.h"
#include "ops/backend.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

using ops::Backend;

/// The ops of a decode while they are being timed.
class Record {
 public:
  bool on = false;

  void add(std::string label, Stopwatch watch) { runs_.emplace_back(std::move(label), std::move(watch)); }

  /// Prints each label's runs and their sum, the longest first.
  void print() {
    struct Sum {
      double ms = 0;
      int64_t count = 0;
    };
    std::map<std::string, Sum> sums;
    double total_ms = 0;
    for (const auto& [label, watch] : runs_) {
      Sum& sum = sums[label];
      sum.ms += watch.ms();
      ++sum.count;
      total_ms += watch.ms();
    }
    std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
    std::ranges::sort(sorted, std::greater{}, [](const auto& entry) { return entry.second.ms; });
    for (const auto& [label, sum] : sorted) fmt::print("{:>9.4f} ms in {:>2}  {}\n", sum.ms, sum.count, label);
    fmt::print("{:>9.4f} ms in all, op by op\n", total_ms);
    runs_.clear();
  }

 private:
  std::vector<std::pair<std::string, Stopwatch>> runs_;
};

Record& record() {
  static Record made;
  return made;
}

/// An op's name as a template argument.
template <size_t kLength>
struct Name {
  char text[kLength];
  constexpr Name(const char (&from)[kLength]) { std::copy_n(from, kLength, text); }
};

/// One entry of the table, timed.
template <auto kEntry, Name kName>
struct Timed;

template <class... Args, void (*Backend::*kEntry)(Context&, Args...), Name kName>
struct Timed<kEntry, kName> {
  static void run(Context& ctx, Args... args) {
    const auto op = ops::cuda_backend().*kEntry;
    if (!record().on) return op(ctx, args...);
    std::string label = kName.text;
    const auto describe = [&](const auto& arg) {
      using Arg = std::decay_t<decltype(arg)>;
      if constexpr (std::is_convertible_v<Arg, ConstView>) {
        const ConstView view = arg;
        if (view && view.shape().rank() > 1) label += fmt::format(" {}{}", name(view.dtype()), to_string(view.shape()));
      } else if constexpr (std::is_same_v<Arg, Conv2d>) {
        label += fmt::format(" kernel {}", arg.kernel);
      } else if constexpr (std::is_same_v<Arg, bool>) {
        label += arg ? " +" : "";
      }
    };
    (describe(args), ...);
    Stopwatch watch(ctx);
    op(ctx, args...);
    watch.end(ctx);
    record().add(std::move(label), std::move(watch));
  }
};

}  // namespace

const Backend& ops::backend_of(Device device) {
  static const Backend timed = [] {
    Backend table = ops::cuda_backend();
    table.linear = Timed<&Backend::linear, "linear">::run;
    table.conv2d = Timed<&Backend::conv2d, "conv2d">::run;
    table.group_norm_row_sums = Timed<&Backend::group_norm_row_sums, "group_norm_row_sums">::run;
    table.group_norm_apply = Timed<&Backend::group_norm_apply, "group_norm_apply">::run;
    table.attention = Timed<&Backend::attention, "attention">::run;
    table.convert = Timed<&Backend::convert, "convert">::run;
    table.latents_to_image = Timed<&Backend::latents_to_image, "latents_to_image">::run;
    table.phases_conv2d = Timed<&Backend::phases_conv2d, "phases_conv2d">::run;
    table.interleave_phases = Timed<&Backend::interleave_phases, "interleave_phases">::run;
    return table;
  }();
  return device.kind == DeviceKind::cuda ? timed : ops::cpu_backend();
}

namespace {

void measure(Context& ctx, const autoencoder_kl::Autoencoder& vae, int64_t size) {
  const int64_t scale = vae.config().scale(), side = size / scale;
  const nn::RowShards shards(side);
  Arena counted(ctx.device());
  vae.take_decode_scratch(counted, shards, side, side);
  Arena arena(ctx.device(), counted.peak_bytes());
  const autoencoder_kl::Scratch scratch = vae.take_decode_scratch(arena, shards, side, side);
  Tensor noise({}, DType::f32, {vae.config().latent_channels, side, side});
  for (int64_t i = 0; i < noise.shape().elements(); ++i)
    noise.data<float>()[i] = static_cast<float>(i * 7919 % 1009) / 505 - 1;
  Tensor latents(ctx.device(), DType::f32, noise.shape()), image(ctx.device(), DType::f32, {size, size, 3});
  upload(ctx, noise, latents);
  const auto decode = [&] { vae.decode(ctx, shards, latents, scratch, image); };
  const auto begin = std::chrono::steady_clock::now();
  decode();
  ctx.synchronize("measurement");
  const double first_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  constexpr int kRuns = 12;
  std::vector<Stopwatch> watches;
  for (int i = 0; i < kRuns; ++i) {
    watches.emplace_back(ctx);
    decode();
    watches.back().end(ctx);
  }
  record().on = true;
  decode();
  record().on = false;
  ctx.synchronize("measurement");
  std::vector<double> times;
  for (const Stopwatch& watch : watches) times.push_back(watch.ms());
  std::ranges::sort(times);
  fmt::print("VAE decode {0}x{0}: {1:.2f} ms (median of {2}), first run {3:.2f} s, scratch {4:.0f} MiB\n", size,
             times[kRuns / 2], kRuns, first_s, static_cast<double>(arena.peak_bytes()) / 1048576);
  record().print();
}

void run(const std::filesystem::path& folder) {
  Context ctx({DeviceKind::cuda, 0});
  fmt::print("{}\n", cuda::device_properties(0).name);
  ZImageModel parts(ctx, folder, true, DType::bf16);
  const autoencoder_kl::Autoencoder& vae = parts.autoencoder(ctx);
  for (const int64_t size : {1024, 2048}) measure(ctx, vae, size);
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  try {
    nostos::run(argc > 1 ? argv[1] : "models/z-image-turbo");
    return 0;
  } catch (const nostos::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return nostos::exit_code(error.kind());
  }
}
