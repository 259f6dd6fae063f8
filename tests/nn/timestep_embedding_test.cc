// Tests time features against the formula in float64.
#include "nn/timestep_embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace nostos::nn {
namespace {

TEST(TimestepFeatures, CosinesThenSines) {
  Context ctx({}, 1);
  const std::vector<float> times{0.f, 250.f, 999.f};
  Tensor out({}, DType::f32, {3, 8});
  timestep_features(ctx, times, out);
  for (size_t t = 0; t < times.size(); ++t) {
    for (int k = 0; k < 4; ++k) {
      const double angle = static_cast<double>(times[t]) * std::pow(10000.0, -k / 4.0);
      // Two float32 roundings of an angle below 1000, spacing 6.1e-5.
      EXPECT_NEAR(out.data<float>()[t * 8 + static_cast<size_t>(k)], std::cos(angle), 1.3e-4);
      EXPECT_NEAR(out.data<float>()[t * 8 + 4 + static_cast<size_t>(k)], std::sin(angle), 1.3e-4);
    }
  }
}

}  // namespace
}  // namespace nostos::nn
