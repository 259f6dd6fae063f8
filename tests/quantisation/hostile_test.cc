// Tests that products of 8 bits hold on weights with outliers as trained ones have them, where naive rounding does not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/capabilities.h"
#include "pipeline/precisions.h"
#include "pipeline/wide_families.h"
#include "quantisation/layer_inputs.h"
#include "quantisation/trajectories.h"
#include "tensor/bfloat16.h"

namespace nostos {
namespace {

constexpr double kGate = 0.998;

EngineOptions hostile(Precision precision) {
  EngineOptions made;
  made.model = wide_zimage();
  made.synthetic = made.synthetic_hostile = true;
  made.precision = precision;
  made.threads = 2;
  return made;
}

GenerationRequest request() {
  GenerationRequest made;
  made.prompt = "a boat";
  made.height = 96;
  made.width = 80;
  made.num_inference_steps = 3;
  return made;
}

/// \return the nearest number of e4m3, as the OCP specification has it, without NaN.
float to_e4m3(float value) {
  const float size = std::min(std::abs(value), 448.f);
  const int exponent = size == 0 ? -6 : std::max(std::ilogb(size), -6);
  const float step = std::ldexp(1.f, exponent - 3);
  return std::copysign(std::nearbyint(size / step) * step, value);
}

/// Rounds inputs to e4m3 with one scale for all of them, as a cast of whole tensors does. Weights stay as they are,
/// which is kind.
void round_naively(Context&, const Linear&, ConstView x) {
  const auto read = [&](int64_t i) {
    return x.dtype() == DType::f32 ? x.data<float>()[i] : to_float(x.data<bfloat16>()[i]);
  };
  float largest = 0;
  for (int64_t i = 0; i < x.elements(); ++i) largest = std::max(largest, std::abs(read(i)));
  const float scale = largest / 448;
  // The rows are the drawing's own memory.
  auto* const bytes = const_cast<std::byte*>(x.bytes());
  for (int64_t i = 0; i < x.elements() && scale > 0; ++i) {
    const float rounded = to_e4m3(read(i) / scale) * scale;
    if (x.dtype() == DType::f32)
      reinterpret_cast<float*>(bytes)[i] = rounded;
    else
      reinterpret_cast<bfloat16*>(bytes)[i] = to_bfloat16(rounded);
  }
}

double least_cosine(const EngineOptions& options, const Trajectory& along) {
  Engine engine(options);
  double least = 1;
  for (const VelocityError& error : compare_along(engine, request(), along, {})) least = std::min(least, error.cosine);
  return least;
}

Trajectory plain_trajectory() {
  Engine engine(hostile(Precision::automatic));
  return follow(engine, request(), {});
}

TEST(Hostile, HasTheOutliersOfTrainedWeights) {
  EngineOptions options = hostile(Precision::automatic);
  float largest = 0, second = 0;
  bool has_lone_channel = false;
  options.input_watch = std::make_shared<const InputWatch>([&](Context&, const Linear& w, ConstView x) {
    if (w.rows.front().name != "layers.0.feed_forward.w2.weight") return;
    for (int64_t row = 0; row < x.shape()[0]; ++row) {
      std::vector<float> sizes;
      double squares = 0;
      for (int64_t i = 0; i < w.in; ++i) {
        const ConstView one = x.rows(row, 1);
        sizes.push_back(std::abs(x.dtype() == DType::f32 ? one.data<float>()[i] : to_float(one.data<bfloat16>()[i])));
        squares += std::pow(sizes.back(), 2);
      }
      std::ranges::sort(sizes, std::ranges::greater());
      if (sizes[0] > largest) std::tie(largest, second) = std::pair(sizes[0], sizes[1]);
      const double crest = sizes[0] / std::sqrt(squares / static_cast<double>(w.in));
      has_lone_channel = has_lone_channel || crest > 0.99 * std::sqrt(static_cast<double>(w.in));
    }
  });
  Engine engine(options);
  follow(engine, request(), {});
  EXPECT_GT(largest, 2e5f);
  EXPECT_LT(largest, 4e5f);
  EXPECT_LT(second, 1e-3f * largest);
  EXPECT_TRUE(has_lone_channel);
}

TEST(Hostile, NaiveRoundingFailsAndInt8Holds) {
  if (!ops::capabilities({}).int8_products) GTEST_SKIP() << "no products of 8-bit numbers here";
  const Trajectory along = plain_trajectory();
  EngineOptions naive = hostile(Precision::automatic);
  naive.input_watch = std::make_shared<const InputWatch>(round_naively);
  EngineOptions all = hostile(Precision::int8);
  all.kept_products.emplace();
  const double of_naive = least_cosine(naive, along), of_all = least_cosine(all, along),
               of_int8 = least_cosine(hostile(Precision::int8), along);
  RecordProperty("naive", fmt::format("{:.6f}", of_naive));
  RecordProperty("all", fmt::format("{:.6f}", of_all));
  RecordProperty("int8", fmt::format("{:.6f}", of_int8));
  EXPECT_LT(of_naive, kGate);
  EXPECT_GE(of_all, kGate);
  // One layer is kept where nobody has measured.
  EXPECT_GE(of_int8, 0.9995);
}

TEST(Trajectories, OfTheSameEngineDoNotDiffer) {
  const Trajectory along = plain_trajectory();
  EXPECT_EQ(along.velocities.size(), 3u);
  EXPECT_EQ(least_cosine(hostile(Precision::automatic), along), 1);
}

TEST(Trajectories, CompareVelocities) {
  const std::vector<float> a{3, 4}, b{4, 3}, none{0, 0}, wrong{NAN, 1};
  EXPECT_NEAR(compare_velocities(a, b).cosine, 24. / 25, 1e-12);
  EXPECT_NEAR(compare_velocities(a, b).relative, std::sqrt(2.) / 5, 1e-12);
  EXPECT_EQ(compare_velocities(a, a).relative, 0);
  EXPECT_EQ(compare_velocities(none, a).cosine, 0);
  EXPECT_EQ(compare_velocities(wrong, a).cosine, 0);
}

}  // namespace
}  // namespace nostos
