// Tests the VAE's decoder on the GPU, apart from the model before it: its bf16 picture against diffusers' float32 one.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "cuda/drawing.h"
#include "cuda/gpu.h"
#include "io/safetensors.h"
#include "models/zimage_model.h"

namespace nostos::test {
namespace {

/// \return the picture of `latents`, f32 [height, width, 3].
Tensor decode(const autoencoder_kl::Autoencoder& vae, ConstView latents,
              int64_t stripe_bytes = autoencoder_kl::kStripeBytes) {
  const int64_t height = latents.shape()[1], width = latents.shape()[2], scale = vae.config().scale();
  const nn::RowShards shards(height);
  Arena measure(gpu().device());
  vae.take_decode_scratch(measure, shards, height, width, stripe_bytes);
  Arena arena(gpu().device(), measure.peak_bytes());
  Tensor image(gpu().device(), DType::f32, {height * scale, width * scale, 3});
  vae.decode(gpu(), shards, on_gpu(latents), vae.take_decode_scratch(arena, shards, height, width, stripe_bytes),
             image);
  return on_host(image);
}

TEST(CudaDecoder, Bf16IsNoWorseThanDiffusersOwn) {
  // PSNR of diffusers' bf16 decode of the golden final latents on a CPU against its float32 one.
  const std::map<std::string, double> reference_psnr_db{
      {"g0_cat_256x256_g0_s2", 60.40}, {"g1_beach_256x384_g4_s3", 61.52}, {"g2_two_apples_384x256_g4_s4", 66.61},
      {"g3_odd_208x208_g4_s3", 64.20}, {"g4_long_320x192_g4_s2", 61.59},  {"g5_city_192x320_g0_s4", 63.88}};
  ZImageModel parts(gpu(), model_dir("mini"), false, DType::bf16);
  for (const GoldenCase& golden : read_cases(embedded_model_here())) {
    const SafetensorsFile file(golden.tensors);
    const Shape batch = file.tensor("final_latents").shape();
    const ConstView latents = file.tensor("final_latents").reshape({batch[1], batch[2], batch[3]});
    const double psnr = psnr_db(decode(parts.autoencoder(gpu()), latents), file.tensor("decoded_image"));
    const double reference = reference_psnr_db.at(golden.name);
    fmt::print("bf16 decoder, {}: {:.2f} dB, diffusers' own {:.2f} dB\n", golden.name, psnr, reference);
    EXPECT_GE(psnr, reference - 1);
  }
}

TEST(CudaDecoder, StripesGiveTheBytesOfTheWhole) {
  ZImageModel parts(gpu(), model_dir("mini"), false, DType::bf16);
  const GoldenCase golden = read_cases(embedded_model_here()).front();
  const SafetensorsFile file(golden.tensors);
  const Shape batch = file.tensor("final_latents").shape();
  const ConstView latents = file.tensor("final_latents").reshape({batch[1], batch[2], batch[3]});
  const Tensor whole = decode(parts.autoencoder(gpu()), latents);
  for (const int64_t stripe_bytes : {int64_t{1} << 20, int64_t{1} << 18})
    EXPECT_TRUE(same_bits(decode(parts.autoencoder(gpu()), latents, stripe_bytes), whole)) << stripe_bytes;
}

}  // namespace
}  // namespace nostos::test
