// Tests that a VAE decoding dealt to ranks, or divided into stripes, gives the bytes of the whole, and what it needs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "models/golden.h"
#include "models/zimage_model.h"
#include "ops/linear.h"
#include "parallel/thread_communicator.h"
#include "pipeline/noise.h"

namespace nostos::test {
namespace {

constexpr int kMostRanks = 8;

struct Case {
  GoldenModel model;
  DType dtype;
  int64_t latent_height, latent_width;
};

// Keeps test listings readable.
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model.name << " " << name(c.dtype) << " " << c.latent_height << "x" << c.latent_width;
}

class VaeShards : public testing::TestWithParam<Case> {
 protected:
  /// Decodes some latents whole, on one rank.
  void SetUp() override {
    const Case& c = GetParam();
    if (c.dtype == DType::bf16 && !ops::has_bf16_products(ctx_)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
    parts_.emplace(ctx_, c.model.model, false, c.dtype);
    const int64_t scale = vae().config().scale();
    latents_ = Tensor({}, DType::f32, {vae().config().latent_channels, c.latent_height, c.latent_width});
    fill_torch_cpu_normal(1, {latents_.data<float>(), static_cast<size_t>(latents_.shape().elements())});
    wanted_ = Tensor({}, DType::f32, {c.latent_height * scale, c.latent_width * scale, 3});
    wanted_sums_ = decode(ctx_, vae(), nn::RowShards(c.latent_height), latents_, wanted_);
  }
  const autoencoder_kl::Autoencoder& vae() { return parts_->autoencoder(ctx_); }

  /// Decodes this rank's rows into their place in `whole`; all ranks use the weights that one of them packed.
  /// \return the sums of the last group norm, of all rows: the picture alone, being float32, would not show their
  /// order.
  static std::vector<double> decode(Context& ctx, const autoencoder_kl::Autoencoder& vae, const nn::RowShards& shards,
                                    ConstView latents, View whole,
                                    int64_t stripe_bytes = autoencoder_kl::kStripeBytes) {
    const int64_t height = latents.shape()[1], width = latents.shape()[2];
    Arena measure{Device{}};
    vae.take_decode_scratch(measure, shards, height, width, stripe_bytes);
    Arena arena({}, measure.peak_bytes());
    std::fill_n(arena.take(measure.peak_bytes()), measure.peak_bytes(), std::byte{0xA5});  // what nobody fills shows
    arena.rewind(0);
    const autoencoder_kl::Scratch scratch = vae.take_decode_scratch(arena, shards, height, width, stripe_bytes);
    vae.decode(ctx, shards, latents, scratch, shards.own_of_whole(whole));
    const double* sums = scratch.group_sums.data<double>();
    return {sums, sums + scratch.group_sums.elements()};
  }

  Context ctx_{{}, 2};
  std::optional<ZImageModel> parts_;
  Tensor latents_, wanted_;
  std::vector<double> wanted_sums_;
};

TEST_P(VaeShards, GiveTheBytesOfOneRank) {
  const autoencoder_kl::Autoencoder& decoder = vae();
  const Shape& image_shape = wanted_.shape();
  std::vector<std::unique_ptr<Context>> contexts;  // kept from world to world: their handles are slow to make
  for (int rank = 0; rank < kMostRanks; ++rank) contexts.push_back(std::make_unique<Context>(Device{}, 1));
  for (int world = 1; world <= kMostRanks; ++world) {
    Tensor image({}, DType::f32, image_shape);
    // Where ranks have neighbours a limit that every image is beyond changes nothing.
    const int64_t stripe_bytes = world % 2 == 0 ? 1 : autoencoder_kl::kStripeBytes;
    run_thread_ranks(world, [&](Communicator& comm) {
      Context& own = *contexts[static_cast<size_t>(comm.rank())];
      const nn::RowShards shards(comm, GetParam().latent_height);
      EXPECT_EQ(decode(own, decoder, shards, latents_, image, stripe_bytes), wanted_sums_)
          << "rank " << comm.rank() << " of " << world;
    });
    const int64_t row_bytes = static_cast<int64_t>(image.size_in_bytes()) / image_shape[0];
    for (int64_t y = 0; y < image_shape[0]; ++y) {
      ASSERT_EQ(std::memcmp(image.view().bytes() + y * row_bytes, wanted_.view().bytes() + y * row_bytes,
                            static_cast<size_t>(row_bytes)),
                0)
          << "picture row " << y << " of " << image_shape[0] << " differs on " << world << " ranks";
    }
  }
}

TEST_P(VaeShards, StripesGiveTheBytesOfTheWhole) {
  const nn::RowShards shards(GetParam().latent_height);
  // From a stripe or two on the largest level to two rows a stripe on all.
  for (const int64_t stripe_bytes : {int64_t{1} << 22, int64_t{1} << 18, int64_t{1}}) {
    Tensor image({}, DType::f32, wanted_.shape());
    EXPECT_EQ(decode(ctx_, vae(), shards, latents_, image, stripe_bytes), wanted_sums_) << stripe_bytes;
    EXPECT_TRUE(std::equal(image.view().bytes(), image.view().bytes() + image.size_in_bytes(), wanted_.view().bytes()))
        << "in stripes of " << stripe_bytes << " bytes";
  }
}

// The full model's decoder with bf16 images, as a GPU has them.
TEST(VaeScratch, FitsFourGibibytesAt2048x2048) {
  Context ctx({}, 2);
  if (!ops::has_bf16_products(ctx)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  ZImageModel parts(ctx, NOSTOS_SOURCE_DIR "/models/z-image-turbo", true, DType::bf16);
  Arena arena({DeviceKind::cuda, 0});
  constexpr int64_t kSide = 2048 / 8;
  parts.autoencoder(ctx).take_decode_scratch(arena, nn::RowShards(kSide), kSide, kSide);
  EXPECT_LE(arena.peak_bytes(), size_t{4} << 30);
  EXPECT_GE(arena.peak_bytes(), size_t{3} << 30);  // the largest image takes 2 GiB, its inner activations 1
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const GoldenModel& model : golden_models()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      // Fewer rows than ranks, odd sides, more rows than ranks.
      for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 3}, {2, 128}, {26, 42}, {90, 90}})
        all.push_back({model, dtype, height, width});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, VaeShards, testing::ValuesIn(cases()), [](const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return c.model.name + "_" + std::string(name(c.dtype)) + "_" + std::to_string(c.latent_height) + "x" +
         std::to_string(c.latent_width);
});

}  // namespace
}  // namespace nostos::test
