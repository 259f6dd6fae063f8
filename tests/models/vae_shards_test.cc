// Tests that a VAE decoding dealt to ranks, or divided into stripes, gives the bytes of the whole, and what it needs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "models/golden.h"
#include "models/synthetic_source.h"
#include "models/zimage_model.h"
#include "ops/linear.h"
#include "parallel/thread_communicator.h"
#include "pipeline/noise.h"

namespace nostos::test {
namespace {

constexpr int kMostRanks = 8;

/// A VAE of a checkpoint.
struct Vae {
  std::string name;
  std::filesystem::path folder;
  bool is_flux2 = false;

  autoencoder_kl::Autoencoder load(Context& ctx, DType dtype) const {
    const auto config = (is_flux2 ? autoencoder_kl::load_flux2_config
                                  : autoencoder_kl::load_config)(JsonConfig::load(folder / "config.json"));
    WeightBuilder builder(
        ctx, std::make_shared<StoreSource>(WeightStores().open(folder), CheckpointNames{}, StoreSource::Mode::load),
        dtype);
    return {config, autoencoder_kl::build_weights(config, builder), dtype};
  }
};

/// The two ways through a VAE.
enum class Way { decode, encode };

struct Case {
  Vae vae;
  Way way;
  DType dtype;
  int64_t height, width;  ///< of latents as ranks share them: packed where the VAE packs them
};

std::string name_of(const Case& c) {
  return c.vae.name + (c.way == Way::decode ? "_" : "_encoding_") + std::string(name(c.dtype)) + "_" +
         std::to_string(c.height) + "x" + std::to_string(c.width);
}

// Keeps test listings readable.
void PrintTo(const Case& c, std::ostream* out) { *out << name_of(c); }

class VaeShards : public testing::TestWithParam<Case> {
 protected:
  /// Decodes, or encodes, something whole, on one rank.
  void SetUp() override {
    const Case& c = GetParam();
    if (c.dtype == DType::bf16 && !ops::has_bf16_products(ctx_)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
    vae_.emplace(c.vae.load(ctx_, c.dtype));
    const autoencoder_kl::Config& config = vae_->config();
    const int64_t height = c.height * config.patch, width = c.width * config.patch, scale = config.scale();
    const Shape image{height * scale, width * scale, 3}, moments{height, width, 2 * config.latent_channels};
    given_ = Tensor({}, DType::f32, c.way == Way::decode ? Shape{config.packed_channels(), c.height, c.width} : image);
    fill_torch_cpu_normal(1, {given_.data<float>(), static_cast<size_t>(given_.shape().elements())});
    wanted_ = Tensor({}, DType::f32, c.way == Way::decode ? image : moments);
    wanted_sums_ = run(ctx_, nn::RowShards(c.height), wanted_);
  }

  /// Makes this rank's rows in their place in `whole`; all ranks use the weights that one of them packed.
  /// \return the sums of the last group norm, of all rows: the picture alone, being float32, would not show their
  /// order.
  std::vector<double> run(Context& ctx, const nn::RowShards& packed, View whole,
                          int64_t stripe_bytes = autoencoder_kl::kStripeBytes) const {
    const bool decodes = GetParam().way == Way::decode;
    const int64_t patch = vae_->config().patch, height = GetParam().height * patch, width = GetParam().width * patch;
    const nn::RowShards shards = packed.refined(patch);
    const auto take = [&](Arena& arena) {
      return decodes ? vae_->take_decode_scratch(arena, shards, height, width, stripe_bytes)
                     : vae_->take_encode_scratch(arena, shards, width, stripe_bytes);
    };
    Arena measure{Device{}};
    take(measure);
    Arena arena({}, measure.peak_bytes());
    std::fill_n(arena.take(measure.peak_bytes()), measure.peak_bytes(), std::byte{0xA5});  // what nobody fills shows
    arena.rewind(0);
    const autoencoder_kl::Scratch scratch = take(arena);
    const View given(const_cast<std::byte*>(given_.view().bytes()), DType::f32, given_.shape());
    if (decodes)
      vae_->decode(ctx, shards, given, scratch, shards.own_of_whole(whole));
    else
      vae_->encode(ctx, shards, shards.own_of_whole(given), scratch, shards.own_of_whole(whole));
    const double* sums = scratch.group_sums.data<double>();
    return {sums, sums + scratch.group_sums.elements()};
  }

  Context ctx_{{}, 2};
  std::optional<autoencoder_kl::Autoencoder> vae_;
  Tensor given_, wanted_;
  std::vector<double> wanted_sums_;
};

TEST_P(VaeShards, GiveTheBytesOfOneRank) {
  const Shape& shape = wanted_.shape();
  std::vector<std::unique_ptr<Context>> contexts;  // kept from world to world: their handles are slow to make
  for (int rank = 0; rank < kMostRanks; ++rank) contexts.push_back(std::make_unique<Context>(Device{}, 1));
  for (int world = 1; world <= kMostRanks; ++world) {
    Tensor made({}, DType::f32, shape);
    // Where ranks have neighbours a limit that every image is beyond changes nothing.
    const int64_t stripe_bytes = world % 2 == 0 ? 1 : autoencoder_kl::kStripeBytes;
    run_thread_ranks(world, [&](Communicator& comm) {
      Context& own = *contexts[static_cast<size_t>(comm.rank())];
      const nn::RowShards shards(comm, GetParam().height);
      EXPECT_EQ(run(own, shards, made, stripe_bytes), wanted_sums_) << "rank " << comm.rank() << " of " << world;
    });
    const int64_t row_bytes = static_cast<int64_t>(made.size_in_bytes()) / shape[0];
    for (int64_t y = 0; y < shape[0]; ++y) {
      ASSERT_EQ(std::memcmp(made.view().bytes() + y * row_bytes, wanted_.view().bytes() + y * row_bytes,
                            static_cast<size_t>(row_bytes)),
                0)
          << "row " << y << " of " << shape[0] << " differs on " << world << " ranks";
    }
  }
}

TEST_P(VaeShards, StripesGiveTheBytesOfTheWhole) {
  const nn::RowShards shards(GetParam().height);
  // From a stripe or two on the largest level to two rows a stripe on all.
  for (const int64_t stripe_bytes : {int64_t{1} << 22, int64_t{1} << 18, int64_t{1}}) {
    Tensor made({}, DType::f32, wanted_.shape());
    EXPECT_EQ(run(ctx_, shards, made, stripe_bytes), wanted_sums_) << stripe_bytes;
    EXPECT_TRUE(std::equal(made.view().bytes(), made.view().bytes() + made.size_in_bytes(), wanted_.view().bytes()))
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

// A 2048x2048 picture, as a user's own that is edited.
TEST(VaeScratch, OfAnEncodingFitsFourGibibytesAt2048x2048) {
  Context ctx({}, 2);
  if (!ops::has_bf16_products(ctx)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const auto config =
      autoencoder_kl::load_flux2_config(JsonConfig::load(NOSTOS_SOURCE_DIR "/models/flux2-klein-4b/vae/config.json"));
  WeightBuilder builder(ctx, std::make_shared<ListingSource>(), DType::bf16);
  const autoencoder_kl::Autoencoder vae(config, autoencoder_kl::build_weights(config, builder), DType::bf16);
  Arena arena({DeviceKind::cuda, 0});
  constexpr int64_t kSide = 2048 / 8;
  vae.take_encode_scratch(arena, nn::RowShards(kSide), kSide);
  EXPECT_LE(arena.peak_bytes(), size_t{4} << 30);
  EXPECT_GE(arena.peak_bytes(), size_t{2} << 30);  // the largest image takes 1 GiB, its inner activations, too
}

std::vector<Case> cases() {
  const std::filesystem::path data = NOSTOS_SOURCE_DIR "/tests/data";
  std::vector<Vae> vaes;
  for (const GoldenModel& model : golden_models()) vaes.push_back({model.name, model.model / "vae"});
  for (const char* name : {"distilled", "base"}) vaes.push_back({name, data / "klein_tiny" / name / "vae", true});
  std::vector<Case> all;
  for (const Vae& vae : vaes) {
    for (const Way way : {Way::decode, Way::encode}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        // Fewer rows than ranks, odd sides, more rows than ranks.
        for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 3}, {2, 128}, {26, 42}, {90, 90}}) {
          if (way == Way::encode && height == 90) continue;  // long, and nothing new
          const int64_t patch = vae.is_flux2 ? 2 : 1;
          all.push_back({vae, way, dtype, std::max<int64_t>(height / patch, 1), std::max<int64_t>(width / patch, 1)});
        }
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, VaeShards, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& info) { return name_of(info.param); });

}  // namespace
}  // namespace nostos::test
