// Tests the promise in full, on the embedded model: the same PNG at every size, on 1 to 8 ranks, with both plans, with
// and without guidance, in both precisions. Takes minutes; each case names what it draws.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <ostream>

#include "io/png.h"
#include "ops/linear.h"
#include "pipeline/engine.h"

namespace nostos {
namespace {

using parallel::PlanKind;

struct Case {
  int64_t height, width;
  Precision precision;
  double guidance;
};

std::string name_of(const Case& c) {
  return fmt::format("{}x{}_{}_guidance_{}", c.height, c.width, c.precision == Precision::f32 ? "f32" : "bf16",
                     c.guidance);
}

// Keeps test listings readable.
void PrintTo(const Case& c, std::ostream* out) { *out << name_of(c); }

std::vector<uint8_t> draw_png(const Case& c, const Parallelism& parallelism) {
  EngineOptions options;
  options.model = std::filesystem::path(NOSTOS_SOURCE_DIR) / "models/mini";
  options.precision = c.precision;
  options.parallelism = parallelism;
  GenerationRequest request;
  request.prompt = "A crowded beach";
  request.height = c.height;
  request.width = c.width;
  request.num_inference_steps = 2;
  request.guidance_scale = c.guidance;
  request.cfg_normalization = c.guidance > 0 ? 1 : 0;
  return encode_png(Engine(options).generate(request).pictures.at(0).image, {});
}

class RanksMatrix : public testing::TestWithParam<Case> {};

TEST_P(RanksMatrix, EveryNumberOfRanksWritesTheSamePng) {
  const Case& c = GetParam();
  Context ctx({}, 1);
  if (c.precision == Precision::bf16 && !ops::has_bf16_products(ctx)) GTEST_SKIP() << "this CPU has no AVX-512 BF16";
  const std::vector<uint8_t> one = draw_png(c, {});
  for (int64_t ranks = 2; ranks <= 8; ++ranks) {
    for (const PlanKind plan : {PlanKind::token, PlanKind::axis}) {
      EXPECT_EQ(draw_png(c, {.ulysses = ranks, .plan = plan}), one)
          << ranks << " ranks by the " << parallel::name(plan) << " plan";
    }
  }
}

std::vector<Case> cases() {
  constexpr int64_t kSizes[][2] = {{720, 720}, {720, 1280},  {1280, 720}, {1024, 1024},
                                   {208, 336}, {1040, 1040}, {16, 1024},  {16, 16}};
  std::vector<Case> made;
  for (const auto& [width, height] : kSizes) {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const double guidance : {0.0, 4.0}) made.push_back({height, width, precision, guidance});
    }
  }
  return made;
}

INSTANTIATE_TEST_SUITE_P(Sizes, RanksMatrix, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& info) { return name_of(info.param); });

}  // namespace
}  // namespace nostos
