// Tests drawings whose attention multiplies queries and keys in 8 bits: the same bits however ranks and batches share
// the work, near the picture without, and refused where it cannot be had.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <string>

#include "base/error.h"
#include "pipeline/drawing_device.h"
#include "pipeline/engine.h"
#include "pipeline/precisions.h"
#include "pipeline/wide_families.h"

namespace nostos {
namespace {

using parallel::PlanKind;

class RoundedAttention : public testing::TestWithParam<const char*> {
 protected:
  RoundedAttention() : folder_(std::string_view(GetParam()) == "z_image" ? wide_zimage() : wide_flux2()) {}

  EngineOptions options(Precision precision, const Parallelism& parallelism = {},
                        Precision attention = Precision::int8) const {
    EngineOptions made;
    made.model = folder_;
    made.synthetic = true;
    made.device = drawing_device();
    made.attention_precision = attention;
    set_precision(made, precision);
    made.parallelism = parallelism;
    made.threads = 2;
    return made;
  }

  std::filesystem::path folder_;
};

INSTANTIATE_TEST_SUITE_P(Families, RoundedAttention, testing::Values("z_image", "flux2"),
                         [](const testing::TestParamInfo<const char*>& info) { return std::string(info.param); });

/// More tokens than share a scale.
GenerationRequest request(uint64_t seed = 42) {
  GenerationRequest made;
  made.prompt = "a boat";
  made.height = 48;
  made.width = 40;
  made.num_inference_steps = 2;
  made.guidance_scale = 2;
  made.max_sequence_length = 48;
  made.seed = seed;
  return made;
}

std::vector<float> latents_of(const Generation& generation) {
  const Tensor& latents = generation.pictures.at(0).latents;
  return {latents.data<float>(), latents.data<float>() + latents.shape().elements()};
}

bool is_served(DType dtype) { return ops::rounds_attention(drawing_device(), dtype, 128); }

TEST_P(RoundedAttention, RanksAndBatchesDrawTheSameBits) {
  for (const Precision precision : drawing_precisions()) {
    if (precision == Precision::f32 && !is_served(DType::f32)) continue;
    Engine alone(options(precision));
    const std::vector<float> one = latents_of(alone.generate(request())),
                             other = latents_of(alone.generate(request(7)));
    ASSERT_NE(one, other);
    const std::vector<GenerationRequest> both{request(), request(7)};
    const std::vector<Generation> together = alone.generate(both);
    EXPECT_EQ(latents_of(together[0]), one);
    EXPECT_EQ(latents_of(together[1]), other);
    for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
      for (const auto& [ranks, halves] : {std::pair{2, 1}, {3, 1}, {4, 1}, {8, 1}, {2, 2}}) {
        const Parallelism parallelism{.ulysses = ranks, .cfg = halves, .plan = plan};
        EXPECT_EQ(latents_of(Engine(options(precision, parallelism)).generate(request())), one)
            << ranks << " ranks for each of " << halves << " by the " << parallel::name(plan) << " plan";
      }
    }
  }
}

TEST_P(RoundedAttention, StaysNearThatWithout) {
  if (!ops::capabilities(drawing_device()).int8_attention) GTEST_SKIP() << "no attention in 8 bits here";
  const std::vector<float> wanted =
      latents_of(Engine(options(Precision::automatic, {}, Precision::automatic)).generate(request()));
  const std::vector<float> made = latents_of(Engine(options(Precision::automatic)).generate(request()));
  EXPECT_NE(made, wanted);
  double product = 0, of_made = 0, of_wanted = 0;
  for (size_t i = 0; i < made.size(); ++i)
    product += made[i] * wanted[i], of_made += made[i] * made[i], of_wanted += wanted[i] * wanted[i];
  EXPECT_GE(product / std::sqrt(of_made * of_wanted), 0.999);
}

/// \return the kind and text of the error with which an engine of `options` is refused.
std::pair<std::optional<ErrorKind>, std::string> refusal_of(const EngineOptions& options) {
  try {
    Engine engine(options);
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {{}, "it is not refused"};
}

TEST_P(RoundedAttention, IsRefusedWhereItCannotBe) {
  const auto [kind, text] = refusal_of(options(Precision::automatic, {.ulysses = 1, .ring = 2}));
  EXPECT_EQ(kind, ErrorKind::invalid_input) << text;
  EXPECT_NE(text.find("--ring-degree"), std::string::npos) << text;
  EXPECT_EQ(refusal_of(options(Precision::automatic, {}, Precision::bf16)).first, ErrorKind::invalid_input);
  if (is_served(DType::f32)) return;
  const auto [of_f32, reason] = refusal_of(options(Precision::f32));
  EXPECT_EQ(of_f32, ErrorKind::device) << reason;
  EXPECT_NE(reason.find("heads of 128 in F32"), std::string::npos) << reason;
}

}  // namespace
}  // namespace nostos
