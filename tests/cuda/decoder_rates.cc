// Prints what a VAE's decoding and encoding take on the GPU: the first run, the median, and where the time goes, op by
// op, with the full model's shapes and random weights. timed/ops/dispatch.h, in the place of the library's, sets
// events around each op.   cuda_decoder_rates [folder of the model's configs]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "base/error.h"
#include "device/cuda/runtime.h"
#include "device/stopwatch.h"
#include "io/environment.h"
#include "io/folder_cache.h"
#include "models/zimage_model.h"
#include "ops/dispatch.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

using ops::record;

/// \param pass runs with scratch memory of `arena` and of nothing else.
void measure(Context& ctx, const char* what, int64_t size, const Arena& arena, const std::function<void()>& pass) {
  const auto begin = std::chrono::steady_clock::now();
  pass();
  ctx.synchronize("measurement");
  const double first_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  constexpr int kRuns = 12;
  std::vector<Stopwatch> watches;
  for (int i = 0; i < kRuns; ++i) {
    watches.emplace_back(ctx);
    pass();
    watches.back().end(ctx);
  }
  record().on = true;
  pass();
  record().on = false;
  ctx.synchronize("measurement");
  std::vector<double> times;
  for (const Stopwatch& watch : watches) times.push_back(watch.ms());
  std::ranges::sort(times);
  fmt::print("VAE {0} {1}x{1}: {2:.2f} ms (median of {3}), first run {4:.2f} s, scratch {5:.0f} MiB\n", what, size,
             times[kRuns / 2], kRuns, first_s, static_cast<double>(arena.peak_bytes()) / 1048576);
  record().print();
}

Tensor random_numbers(Context& ctx, const Shape& shape) {
  Tensor host({}, DType::f32, shape), made(ctx.device(), DType::f32, shape);
  for (int64_t i = 0; i < shape.elements(); ++i) host.data<float>()[i] = static_cast<float>(i * 7919 % 1009) / 505 - 1;
  upload(ctx, host, made);
  return made;
}

void measure_decode(Context& ctx, const autoencoder_kl::Autoencoder& vae, int64_t size) {
  const int64_t side = size / vae.config().scale();
  const nn::RowShards shards(side);
  Arena counted(ctx.device());
  vae.take_decode_scratch(counted, shards, side, side);
  Arena arena(ctx.device(), counted.peak_bytes());
  const autoencoder_kl::Scratch scratch = vae.take_decode_scratch(arena, shards, side, side);
  const Tensor latents = random_numbers(ctx, {vae.config().latent_channels, side, side});
  Tensor image(ctx.device(), DType::f32, {size, size, 3});
  measure(ctx, "decode", size, arena, [&] { vae.decode(ctx, shards, latents, scratch, image); });
}

void measure_encode(Context& ctx, const autoencoder_kl::Autoencoder& vae, int64_t size) {
  const int64_t side = size / vae.config().scale();
  const nn::RowShards shards(side);
  Arena counted(ctx.device());
  vae.take_encode_scratch(counted, shards, side);
  Arena arena(ctx.device(), counted.peak_bytes());
  const autoencoder_kl::Scratch scratch = vae.take_encode_scratch(arena, shards, side);
  const Tensor image = random_numbers(ctx, {size, size, 3});
  Tensor moments(ctx.device(), DType::f32, {side, side, 2 * vae.config().latent_channels});
  measure(ctx, "encode", size, arena, [&] { vae.encode(ctx, shards, image, scratch, moments); });
}

void run(const std::filesystem::path& folder) {
  Context ctx({DeviceKind::cuda, 0}, 0, FolderCache::in(cache_folder()));
  fmt::print("{}\n", cuda::device_properties(0).name);
  ZImageModel parts(ctx, folder, true, DType::bf16);
  const autoencoder_kl::Autoencoder& vae = parts.autoencoder(ctx);
  for (const int64_t size : {1024, 2048}) {
    measure_decode(ctx, vae, size);
    measure_encode(ctx, vae, size);
  }
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
