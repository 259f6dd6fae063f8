// Tests which rows of products are looked at, what rounding does to them, and which layers are kept.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/int8_linear.h"
#include "quantisation/layer_errors.h"
#include "tensor/bfloat16.h"

namespace nostos {
namespace {

constexpr int64_t kIn = 256, kOut = 16;

/// Numbers from -1 to 1.
std::vector<float> numbers(int64_t count, uint32_t state) {
  std::vector<float> made;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    made.push_back(static_cast<float>(state >> 8) * 0x1p-23f - 1);
  }
  return made;
}

ConstView view_of(const std::vector<float>& values, int64_t columns) {
  return {reinterpret_cast<const std::byte*>(values.data()), DType::f32, {std::ssize(values) / columns, columns}};
}

/// A weight that is watched.
Linear watched(Context& ctx, LayerInputs& inputs, const std::vector<float>& weight) {
  Linear made = ops::pack_linear(ctx, view_of(weight, kIn));
  made.rows = {{"a.weight", 0, 8, 8, 8, 8}, {"b.weight", 8, 8, 8, 8}};
  made.watch = inputs.watch();
  return made;
}

TEST(LayerInputs, KeepRowsOfAllTheInputAndTheLargest) {
  Context ctx({}, 1);
  LayerInputs inputs(4);
  const Linear w = watched(ctx, inputs, numbers(kOut * kIn, 1));
  std::vector<float> x = numbers(40 * kIn, 2);
  x[13 * kIn + 5] = -7;
  std::vector<float> y(40 * kOut);
  const View to(reinterpret_cast<std::byte*>(y.data()), DType::f32, {40, kOut});
  ops::linear(ctx, view_of(x, kIn), w, to);
  inputs.next_group();
  ops::linear(ctx, view_of(x, kIn).rows(0, 2), w, to.rows(0, 2));
  ASSERT_EQ(inputs.products().size(), 1u);
  const SeenRows& seen = inputs.products().front();
  EXPECT_EQ(seen.weight, w.rows);
  EXPECT_EQ(seen.in, kIn);
  EXPECT_EQ(seen.out, kOut);
  EXPECT_EQ(seen.groups, (std::vector<size_t>{0, 0, 0, 0, 1, 1}));
  const auto* rows = reinterpret_cast<const float*>(seen.rows.data());
  for (const auto& [place, row] : {std::pair{0, 0}, {1, 10}, {2, 13}, {3, 20}, {4, 0}, {5, 1}})
    EXPECT_EQ(rows[place * kIn + 3], x[static_cast<size_t>(row * kIn + 3)]) << place;
}

TEST(LayerErrors, AreThoseOfTheRoundedProduct) {
  Context ctx({}, 1);
  LayerInputs inputs(8);
  const std::vector<float> a = numbers(16 * kIn, 3), b = numbers(8 * kIn, 4);
  std::vector<float> weight(a.begin() + 8 * kIn, a.end());
  weight.insert(weight.end(), b.begin(), b.end());
  const Linear w = watched(ctx, inputs, weight);
  const std::vector<float> x = numbers(8 * kIn, 5);
  std::vector<float> y(8 * kOut), rounded(8 * kOut);
  const Shape shape{8, kOut};
  ops::linear(ctx, view_of(x, kIn), w, {reinterpret_cast<std::byte*>(y.data()), DType::f32, shape});
  const auto read = [&](const std::string& name) { return name == "a.weight" ? a : b; };
  int64_t told = 0;
  const std::vector<LayerError> errors = layer_errors(ctx, inputs.products(), read, [&] { ++told; });
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(errors[0].matrices, (std::vector<std::string>{"a.weight", "b.weight"}));

  Tensor numbers_of_w(Device{}, DType::i8, {kOut, kIn}), scales(Device{}, DType::f32, {kOut});
  ops::quantise_rows(ctx, view_of(weight, kIn), ops::kWideRotation, numbers_of_w, scales);
  Linear as_int8 = w;
  as_int8.watch = {};
  as_int8.int8 = {ops::kWideRotation, numbers_of_w.view(), scales.view()};
  ops::linear(ctx, view_of(x, kIn), as_int8, {reinterpret_cast<std::byte*>(rounded.data()), DType::f32, shape});
  double difference = 0, all = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    difference += std::pow(static_cast<double>(rounded[i]) - y[i], 2);
    all += std::pow(y[i], 2);
  }
  EXPECT_NEAR(errors[0].mean, std::sqrt(difference / all), 1e-6);
  EXPECT_EQ(errors[0].worst, errors[0].mean);
  EXPECT_GT(errors[0].mean, 0.002);
  EXPECT_LT(errors[0].mean, 0.03);
}

TEST(LayerErrors, OfProductsThatAreNotFiniteAreInfinite) {
  Context ctx({}, 1);
  LayerInputs inputs(8);
  std::vector<float> weight = numbers(kOut * kIn, 3);
  const Linear w = watched(ctx, inputs, weight);
  std::vector<float> x(2 * kIn, 1), y(2 * kOut);
  x[kIn] = std::numeric_limits<float>::infinity();
  ops::linear(ctx, view_of(x, kIn), w, {reinterpret_cast<std::byte*>(y.data()), DType::f32, {2, kOut}});
  const auto errors = layer_errors(ctx, inputs.products(), [&](const std::string&) { return weight; });
  EXPECT_TRUE(std::isinf(errors.at(0).worst));
}

TEST(KeepLayers, TakesThoseBeyondTheBoundAndThoseThatShareAMatrix) {
  std::vector<LayerError> layers{{{"a"}, 1, 1, 0.1, 0.3},
                                 {{"b", "c"}, 1, 1, 0.3, 0.5},
                                 {{"d"}, 1, 1, 0.3, 0.4},
                                 {{"e", "c"}, 1, 1, 0, 0.1},
                                 {{"e"}, 1, 1, 0, 0.1}};
  EXPECT_EQ(keep_layers(layers, 0.4), (std::set<std::string>{"b", "c", "e"}));
  EXPECT_FALSE(layers[0].is_kept);
  EXPECT_TRUE(layers[1].is_kept);
  EXPECT_FALSE(layers[2].is_kept);
  EXPECT_TRUE(layers[3].is_kept);
  EXPECT_TRUE(layers[4].is_kept);
}

}  // namespace
}  // namespace nostos
