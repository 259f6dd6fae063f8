// Prints what a VAE decode takes on the GPU: its first run, its median, and where the time goes, op by op, with the
// full model's shapes and random weights. timed/ops/dispatch.h, in the place of the library's, sets events around each
// op.   cuda_decoder_rates [folder of the model's configs]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
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
  Context ctx({DeviceKind::cuda, 0}, 0, FolderCache::in(cache_folder()));
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
