// Tests drawings with weights that are kept as files store them: the same bits however ranks and batches share the
// work, and the picture of the numbers that the weights stand for.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "models/autoencoder_kl/config.h"
#include "models/autoencoder_kl/weights.h"
#include "models/flux2/weights.h"
#include "models/qwen3/weights.h"
#include "models/synthetic_source.h"
#include "models/zimage/weights.h"
#include "ops/linear.h"
#include "ops/stored_weight.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"
#include "pipeline/wide_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;
using Path = std::filesystem::path;

struct Case {
  const char* family;
  const char* format;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.family << " " << c.format; }

class StoredDrawings : public testing::TestWithParam<Case> {
 protected:
  StoredDrawings() : folder_(std::string_view(GetParam().family) == "z_image" ? wide_zimage() : wide_flux2()) {}

  EngineOptions options(Precision precision, const Parallelism& parallelism = {}) const {
    EngineOptions made;
    made.model = folder_;
    made.synthetic = true;
    made.device = drawing_device();
    made.synthetic_format = GetParam().format;
    set_precision(made, precision);
    made.parallelism = parallelism;
    made.threads = 2;
    return made;
  }
  static GenerationRequest request(uint64_t seed = 42) {
    GenerationRequest made;
    made.prompt = "a boat";
    made.height = 40;
    made.width = 24;
    made.num_inference_steps = 2;
    made.guidance_scale = 2;
    made.max_sequence_length = 48;
    made.seed = seed;
    return made;
  }

  Path folder_;
};

std::vector<uint8_t> latents_of(const Generation& generation, size_t picture = 0) {
  const Tensor& latents = generation.pictures.at(picture).latents;
  const std::byte* bytes = latents.view().bytes();
  const auto* begin = reinterpret_cast<const uint8_t*>(bytes);
  return {begin, begin + latents.size_in_bytes()};
}

INSTANTIATE_TEST_SUITE_P(Formats, StoredDrawings,
                         testing::Values(Case{"z_image", "bf16"}, Case{"flux2", "bf16"}, Case{"z_image", "q4_k"},
                                         Case{"z_image", "q6_k"}, Case{"z_image", "q8_0"}, Case{"z_image", "iq4_xs"},
                                         Case{"z_image", "f8_e4m3"}, Case{"z_image", "int8_convrot"},
                                         Case{"flux2", "q4_k"}, Case{"flux2", "q5_0"}, Case{"flux2", "f8_e5m2"},
                                         Case{"flux2", "int8_convrot"}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return fmt::format("{}_{}", info.param.family, info.param.format);
                         });

TEST_P(StoredDrawings, RanksAndBatchesDrawTheSameBits) {
  for (const Precision precision : drawing_precisions()) {
    Engine alone(options(precision));
    const std::vector<uint8_t> one = latents_of(alone.generate(request()));
    const std::vector<uint8_t> other = latents_of(alone.generate(request(7)));
    ASSERT_NE(one, other);
    const std::vector<GenerationRequest> both{request(), request(7)};
    const std::vector<Generation> together = alone.generate(both);
    EXPECT_EQ(latents_of(together[0]), one);
    EXPECT_EQ(latents_of(together[1]), other);
    for (const Parallelism& parallelism : {Parallelism{.ulysses = 2}, Parallelism{.ulysses = 3, .plan = PlanKind::axis},
                                           Parallelism{.ulysses = 2, .cfg = 2}}) {
      EXPECT_EQ(latents_of(Engine(options(precision, parallelism)).generate(request())), one)
          << parallelism.ulysses << " ranks, " << parallelism.cfg << " halves";
    }
  }
}

/// \return the cosine of the angle between two drawings' latents.
double cosine(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  const auto* x = reinterpret_cast<const float*>(a.data());
  const auto* y = reinterpret_cast<const float*>(b.data());
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < a.size() / sizeof(float); ++i) xy += x[i] * y[i], xx += x[i] * x[i], yy += y[i] * y[i];
  return xy / std::sqrt(xx * yy);
}

TEST_P(StoredDrawings, ProductsOf8BitsStayNearThoseOfBf16) {
  Context ctx(drawing_device(), 1);
  if (!ops::capabilities(ctx.device()).int8_products) GTEST_SKIP() << "no products of 8-bit numbers here";
  const std::vector<uint8_t> wanted = latents_of(Engine(options(Precision::automatic)).generate(request()));
  Engine rounded(options(Precision::int8));
  EXPECT_STREQ(rounded.precision_name(), "int8");
  const std::vector<uint8_t> made = latents_of(rounded.generate(request()));
  EXPECT_NE(made, wanted);
  EXPECT_GE(cosine(made, wanted), 0.999);
}

/// Gives the numbers of another source's matrices, float32.
void write_numbers(const Path& file, WeightSource& source, const std::map<std::string, Shape>& shapes) {
  Context ctx;
  std::vector<Tensor> tensors;
  std::vector<NamedTensor> named;
  for (const auto& [name, shape] : shapes) {
    Tensor& made = tensors.emplace_back(Device{}, DType::f32, shape);
    if (shape.rank() == 2 && shape[0] > 1) {  // a single row is a vector to the model
      const StoredMatrix matrix = source.matrix(name, shape).front();
      ops::dequantise(ctx, std::array{StoredPiece{matrix, 0, matrix.rows, matrix.rows}}, made);
    } else {
      ops::convert(ctx, source.tensor(name, shape), made);
    }
    source.release(name);
  }
  size_t i = 0;
  for (const auto& [name, shape] : shapes) named.push_back({name, tensors[i++].view()});
  for (const auto& entry : std::filesystem::directory_iterator(file.parent_path()))
    if (entry.path().extension() == ".safetensors" || entry.path().string().ends_with(".index.json"))
      std::filesystem::remove(entry.path());
  write_safetensors(file, named);
}

TEST_P(StoredDrawings, AreThoseOfTheNumbersThatTheWeightsStandFor) {
  Context ctx({}, 2);
  const std::vector<uint8_t> stored = latents_of(Engine(options(Precision::f32)).generate(request()));
  const auto write = [&](const char* part, const char* file, const auto& walk) {
    const auto listed = std::make_shared<ListingSource>();
    WeightBuilder list(ctx, listed, DType::f32);
    walk(JsonConfig::load(folder_ / part / "config.json"), list);
    SyntheticSource source(ctx, parse_synthetic_format(GetParam().format));
    write_numbers(folder_ / part / file, source, listed->shapes());
  };
  const bool is_zimage = std::string_view(GetParam().family) == "z_image";
  write("transformer", "diffusion_pytorch_model.safetensors", [&](const JsonConfig& json, WeightBuilder& builder) {
    if (is_zimage)
      zimage::build_weights(zimage::load_config(json), builder);
    else
      flux2::build_weights(flux2::load_config(json), builder);
  });
  write("text_encoder", "model.safetensors", [&](const JsonConfig& json, WeightBuilder& builder) {
    qwen3::Config config = qwen3::load_config(json);
    if (!is_zimage) config.feature_layers = {9, 18, 27};
    qwen3::build_weights(config, builder);
  });
  write("vae", "diffusion_pytorch_model.safetensors", [&](const JsonConfig& json, WeightBuilder& builder) {
    autoencoder_kl::build_weights(
        is_zimage ? autoencoder_kl::load_config(json) : autoencoder_kl::load_flux2_config(json), builder);
  });
  EngineOptions plain = options(Precision::f32);
  plain.synthetic = false;
  plain.synthetic_format = "";
  const std::vector<uint8_t> numbers = latents_of(Engine(plain).generate(request()));
  ASSERT_EQ(stored.size(), numbers.size());
  const auto* a = reinterpret_cast<const float*>(stored.data());
  const auto* b = reinterpret_cast<const float*>(numbers.data());
  float largest = 0, apart = 0;
  for (size_t i = 0; i < stored.size() / sizeof(float); ++i) {
    largest = std::max(largest, std::abs(b[i]));
    apart = std::max(apart, std::abs(a[i] - b[i]));
  }
  EXPECT_LE(apart, 1e-5f * largest);
}

TEST(SyntheticFormat, IsOfAllPartsOrOfEachByItsName) {
  EXPECT_EQ(synthetic_format_of("vae", ""), std::nullopt);
  EXPECT_EQ(synthetic_format_of("vae", "q4_k")->type, StoredType::q4_k);
  const std::string mixed = "transformer=q6_k,text_encoder=int8_convrot";
  EXPECT_EQ(synthetic_format_of("transformer", mixed)->type, StoredType::q6_k);
  EXPECT_EQ(synthetic_format_of("text_encoder", mixed)->type, StoredType::i8);
  EXPECT_EQ(synthetic_format_of("vae", mixed), std::nullopt);
  for (const char* wrong : {"transformer=q4_k,q6_k", "unet=q4_k", "vae=q17"})
    EXPECT_THROW(synthetic_format_of("vae", wrong), Error) << wrong;
}

}  // namespace
}  // namespace nostos
