// Tests normalisations against the reference.
#include "ops/norm.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/support.h"

namespace nostos {
namespace {

using reference::at;

constexpr float kEps = 1e-5f;
const std::vector<int64_t> kWidths = {1, 2, 15, 16, 17, 31, 32, 33, 65, 384, 3840};
const std::vector<DType> kOutputs = {DType::f32, DType::bf16};

/// Relative error of x * inverse_rms(x) * (two factors): a sum of n squares errs by n u, halved by the root; 8 more
/// operations.
double rms_error(int64_t n) { return (static_cast<double>(n) / 2 + 8) * kUnitF32; }

// Measured: 0.25 of the bound for f32, 0.99 for bf16 (its output rounding).
TEST(Norm, RmsNormEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : kWidths) {
      for (const bool scaled : {false, true}) {
        const int64_t rows = n > 1000 ? 3 : 9;
        const Tensor x = random_tensor(DType::f32, {rows, n}, 1, -3, 3), weight = random_tensor(DType::f32, {n}, 2);
        const Tensor scale = random_tensor(DType::f32, {n}, 3);
        Guarded out(dtype, {rows, n});
        ops::rms_norm(ctx, x, weight, scaled ? ConstView(scale) : ConstView(), kEps, out);
        const Values expected =
            reference::rms_norm(values(x), values(weight), scaled ? values(scale) : Values{}, kEps, n);
        Values bound = reference::absolute(expected);
        for (double& value : bound) value *= rms_error(n) + unit(dtype);
        worst(dtype, expect_within(out, expected, bound, fmt::format("rms_norm {} {}", name(dtype), n)));
        out.expect_guards_untouched();
      }
    }
  }
}

TEST(Norm, RmsNormOfZerosIsZero) {
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {2, 33}, 1, 0, 0), weight = random_tensor(DType::f32, {33}, 2);
  Guarded out(DType::f32, {2, 33});
  ops::rms_norm(ctx, x, weight, {}, 1e-6f, out);
  for (const double value : values(out)) EXPECT_EQ(value, 0);
}

/// Errors of reference::layer_norm_scaled() by `factors`: the mean errs by its sum's error of mean |x|, and so does
/// every difference from it.
Values layer_norm_bound(const Values& in, const Values& factors, const Values& expected, int64_t n, double output) {
  Values bound(expected.size());
  for (int64_t r = 0; r < std::ssize(in) / n; ++r) {
    double mean = 0, absolute_mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += in[at(r * n + i)] / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) absolute_mean += std::abs(in[at(r * n + i)]) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) variance += std::pow(in[at(r * n + i)] - mean, 2) / static_cast<double>(n);
    const double mean_error = sum_error(n) * absolute_mean, inverse = 1 / std::sqrt(variance + kEps);
    for (int64_t i = 0; i < n; ++i) {
      bound[at(r * n + i)] = mean_error * inverse * std::abs(factors[at(i)]) * 2 +
                             std::abs(expected[at(r * n + i)]) * (rms_error(n) + output);
    }
  }
  return bound;
}

// Measured: 0.11 of the bound for f32, 0.97 for bf16 (its output rounding).
TEST(Norm, LayerNormEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : kWidths) {
      for (const float shift : {0.f, 10.f}) {
        const int64_t rows = n > 1000 ? 3 : 9;
        const Tensor x = random_tensor(DType::f32, {rows, n}, 1, shift - 3, shift + 3),
                     scale = random_tensor(DType::f32, {n}, 3);
        Guarded out(dtype, {rows, n});
        ops::layer_norm_scaled(ctx, x, scale, kEps, out);
        const Values in = values(x), factors = values(scale);
        const Values expected = reference::layer_norm_scaled(in, factors, kEps, n);
        const Values bound = layer_norm_bound(in, factors, expected, n, unit(dtype));
        worst(dtype, expect_within(out, expected, bound,
                                   fmt::format("layer_norm_scaled {} {} shift {}", name(dtype), n, shift)));
        out.expect_guards_untouched();
      }
    }
  }
}

TEST(Norm, AdaptiveLayerNormEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : kWidths) {
      const int64_t rows = n > 1000 ? 3 : 9;
      const Tensor x = random_tensor(DType::f32, {rows, n}, 1, -2, 4), scale = random_tensor(DType::f32, {n}, 3),
                   shift = random_tensor(DType::f32, {n}, 4);
      Guarded out(dtype, {rows, n});
      ops::adaptive_layer_norm(ctx, x, {scale, shift, kEps}, out);
      const Values in = values(x), shifts = values(shift);
      Values factors = values(scale);
      for (double& factor : factors) factor += 1;
      const Values normed = reference::layer_norm_scaled(in, factors, kEps, n);
      Values expected = normed, bound = layer_norm_bound(in, factors, normed, n, kUnitF32);
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] += shifts[i % at(n)];
        bound[i] += std::abs(expected[i]) * (kUnitF32 + unit(dtype));
      }
      worst(dtype, expect_within(out, expected, bound, fmt::format("adaptive_layer_norm {} {}", name(dtype), n)));
      out.expect_guards_untouched();
    }
  }
}

// The sum has the bits of a separate one, and the norm those of adaptive_layer_norm() of it.
TEST(Norm, AddGatedAdaptiveNormIsTheSumThenTheNorm) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : kWidths) {
      const int64_t rows = n > 1000 ? 3 : 9;
      const Tensor projected = random_tensor(DType::f32, {rows, n}, 1, -3, 3), gate = random_tensor(DType::f32, {n}, 2),
                   before = random_tensor(DType::f32, {rows, n}, 3), scale = random_tensor(DType::f32, {n}, 4),
                   shift = random_tensor(DType::f32, {n}, 5);
      const ops::AdaptiveNorm norm{scale, shift, kEps};
      Guarded x(DType::f32, {rows, n}), x_alone(DType::f32, {rows, n}), out(dtype, {rows, n}), apart(dtype, {rows, n});
      for (Guarded* each : {&x, &x_alone}) copy_bytes(before, *each);
      ops::add_gated_adaptive_norm(ctx, projected, gate, x, norm, out);
      ops::add_gated_adaptive_norm(ctx, projected, gate, x_alone, {}, {});
      ops::adaptive_layer_norm(ctx, x, norm, apart);
      EXPECT_TRUE(same_bits(ConstView(x), ConstView(x_alone))) << n;
      EXPECT_TRUE(same_bits(ConstView(out), ConstView(apart))) << n;
      const Values p = values(projected), g = values(gate), b = values(before);
      Values expected(p.size()), bound(p.size());
      for (size_t i = 0; i < p.size(); ++i) {
        expected[i] = b[i] + g[i % at(n)] * p[i];
        bound[i] = kUnitF32 * (std::abs(g[i % at(n)] * p[i]) + std::abs(expected[i]));
      }
      worst(DType::f32, expect_within(x, expected, bound, fmt::format("add_gated {}", n)));
      for (Guarded* each : {&x, &x_alone, &out}) each->expect_guards_untouched();
    }
  }
}

// The norm that follows has the bits of rms_norm() of the sum, and without a weight those of the sum itself.
TEST(Norm, AddGatedIsTheSumThenTheNorm) {
  WorstError worst;
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : kWidths) {
      const int64_t rows = n > 1000 ? 3 : 9;
      const Tensor projected = random_tensor(DType::f32, {rows, n}, 1, -3, 3), gate = random_tensor(DType::f32, {n}, 2),
                   before = random_tensor(DType::f32, {rows, n}, 3), bias = random_tensor(DType::f32, {n}, 4),
                   weight = random_tensor(DType::f32, {n}, 5), scale = random_tensor(DType::f32, {n}, 6);
      const ops::GatedBias by{bias, gate, kEps};
      Guarded x(DType::f32, {rows, n}), out(dtype, {rows, n}), apart(dtype, {rows, n});
      const auto add = [&](const ops::NextNorm& next) {
        copy_bytes(before, x);
        ops::add_gated(ctx, projected, by, x, next);
      };
      add({weight, scale, out});
      ops::rms_norm(ctx, x, weight, scale, kEps, apart);
      EXPECT_TRUE(same_bits(ConstView(out), ConstView(apart))) << n;
      add({{}, {}, out});
      ops::convert(ctx, x, apart);
      EXPECT_TRUE(same_bits(ConstView(out), ConstView(apart))) << n;
      add({});
      const Values p = values(projected), g = values(gate), b = values(before), offset = values(bias);
      Values expected(p.size()), bound(p.size());
      for (size_t i = 0; i < p.size(); ++i) {
        const double added = g[i % at(n)] * (p[i] + offset[i % at(n)]);
        expected[i] = b[i] + added;
        bound[i] = kUnitF32 * (2 * std::abs(added) + std::abs(expected[i]));
      }
      worst(DType::f32, expect_within(x, expected, bound, fmt::format("add_gated {}", n)));
      for (Guarded* each : {&x, &out}) each->expect_guards_untouched();
    }
  }
}

// Measured: 0.84 of the bound.
TEST(Norm, AddGatedRmsNormEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  for (const int64_t n : kWidths) {
    for (const bool gated : {false, true}) {
      const int64_t rows = n > 1000 ? 3 : 9;
      const Tensor projected = random_tensor(DType::f32, {rows, n}, 1, -3, 3),
                   weight = random_tensor(DType::f32, {n}, 2);
      const Tensor gate = random_tensor(DType::f32, {n}, 3), before = random_tensor(DType::f32, {rows, n}, 4);
      Guarded x(DType::f32, {rows, n});
      copy_bytes(before, x);
      ops::add_gated_rms_norm(ctx, projected, {weight, gated ? ConstView(gate) : ConstView(), kEps}, x);
      const Values added =
          reference::rms_norm(values(projected), values(weight), gated ? values(gate) : Values{}, kEps, n);
      Values expected = values(before), bound = added;
      for (size_t i = 0; i < expected.size(); ++i) {
        bound[i] = std::abs(added[i]) * rms_error(n) + (std::abs(expected[i]) + std::abs(added[i])) * kUnitF32;
        expected[i] += added[i];
      }
      worst(DType::f32, expect_within(x, expected, bound, fmt::format("add_gated_rms_norm {}", n)));
      x.expect_guards_untouched();
    }
  }
}

// One pass gives the bits of two.
TEST(Norm, AddGatedRmsNormAndTheNextNormEqualBothAlone) {
  Context ctx({}, 2);
  for (const DType dtype : kOutputs) {
    for (const int64_t n : {1, 33, 384, 3840}) {
      for (const bool scaled : {false, true}) {
        constexpr int64_t kRows = 7;
        const Tensor projected = random_tensor(DType::f32, {kRows, n}, 1, -3, 3),
                     before = random_tensor(DType::f32, {kRows, n}, 4);
        const Tensor weight = random_tensor(DType::f32, {n}, 2), gate = random_tensor(DType::f32, {n}, 3),
                     next_weight = random_tensor(DType::f32, {n}, 5), next_scale = random_tensor(DType::f32, {n}, 6);
        const ConstView scale = scaled ? ConstView(next_scale) : ConstView();
        Guarded x(DType::f32, {kRows, n}), out(dtype, {kRows, n});
        Guarded x_alone(DType::f32, {kRows, n}), out_alone(dtype, {kRows, n});
        copy_bytes(before, x);
        copy_bytes(before, x_alone);
        ops::add_gated_rms_norm(ctx, projected, {weight, gate, kEps}, x, {next_weight, scale, out});
        ops::add_gated_rms_norm(ctx, projected, {weight, gate, kEps}, x_alone);
        ops::rms_norm(ctx, x_alone, next_weight, scale, kEps, out_alone);
        EXPECT_TRUE(same_bits(ConstView(x), ConstView(x_alone))) << name(dtype) << " " << n;
        EXPECT_TRUE(same_bits(ConstView(out), ConstView(out_alone))) << name(dtype) << " " << n;
        x.expect_guards_untouched();
        out.expect_guards_untouched();
      }
    }
  }
}

// Sums are float64: what remains is f32 factor and offset, (|x a| + |b|) 4 u, the slope of SiLU (at most 1.1), exp and
// division. Measured: 0.21 of the bound for f32, 0.99 for bf16 (its output rounding).
TEST(Norm, GroupNormEqualsReference) {
  WorstError worst;
  Context ctx({}, 2);
  struct Case {
    int64_t height, width, channels, groups;
  };
  for (const DType dtype : kOutputs) {
    for (const Case& c :
         {Case{1, 1, 4, 2}, {2, 3, 32, 32}, {5, 7, 33, 3}, {4, 31, 64, 32}, {3, 65, 96, 4}, {8, 8, 128, 32}}) {
      for (const bool silu : {false, true}) {
        for (const float shift : {0.f, 20.f}) {
          const Shape shape{c.height, c.width, c.channels};
          const Tensor x = random_tensor(DType::f32, shape, 1, shift - 2, shift + 2);
          const Tensor weight = random_tensor(DType::f32, {c.channels}, 2),
                       bias = random_tensor(DType::f32, {c.channels}, 3);
          Guarded sums(DType::f64, {c.height, c.groups, 2}), out(dtype, shape);
          ops::group_norm_row_sums(ctx, x, sums);
          ops::group_norm_apply(ctx, x, sums, x.shape()[1], {weight, bias, kEps, silu}, out);
          const Values in = values(x), w = values(weight), b = values(bias);
          const Values expected = reference::group_norm(in, w, b, kEps, silu, c.channels, c.groups);
          const auto statistics = reference::group_statistics(in, kEps, c.channels, c.groups);
          Values bound(in.size());
          for (size_t i = 0; i < in.size(); ++i) {
            const size_t channel = i % at(c.channels);
            const auto& [mean, inverse] = statistics[channel / at(c.channels / c.groups)];
            const double factor = inverse * std::abs(w[channel]);
            bound[i] = 1.1 * 4 * kUnitF32 * ((std::abs(in[i]) + std::abs(mean)) * factor + std::abs(b[channel])) +
                       std::abs(expected[i]) * (4 * kUnitF32 + kExpError + unit(dtype));
          }
          worst(dtype, expect_within(out, expected, bound,
                                     fmt::format("group_norm {} {} silu {} shift {}", name(dtype), to_string(shape),
                                                 silu, shift)));
          out.expect_guards_untouched();
          sums.expect_guards_untouched();
        }
      }
    }
  }
}

TEST(Norm, GroupNormRowSumsAreSumsOfOneRow) {
  Context ctx({}, 2);
  Tensor x(Device{}, DType::f32, {2, 3, 4});
  for (int i = 0; i < 24; ++i) x.data<float>()[i] = static_cast<float>(i);
  Guarded sums(DType::f64, {2, 2, 2});
  ops::group_norm_row_sums(ctx, x, sums);
  // Row 0, group 0: 0 1 4 5 8 9; group 1: 2 3 6 7 10 11; row 1 the same plus 12.
  EXPECT_EQ(values(sums), (Values{27, 187, 39, 319, 99, 1699, 111, 2119}));
}

TEST(Norm, NoRowsIsValid) {
  Context ctx({}, 2);
  const Tensor x(Device{}, DType::f32, {0, 16}), weight = random_tensor(DType::f32, {16}, 1);
  Guarded out(DType::f32, {0, 16});
  EXPECT_NO_THROW(ops::rms_norm(ctx, x, weight, {}, kEps, out));
  EXPECT_NO_THROW(ops::layer_norm_scaled(ctx, x, weight, kEps, out));
  EXPECT_NO_THROW(ops::add_gated_rms_norm(ctx, x, {weight, {}, kEps}, out));
  out.expect_guards_untouched();
}

TEST(Norm, WrongShapesAreRefused) {
  Context ctx({}, 1);
  const Tensor x = random_tensor(DType::f32, {2, 16}, 1), weight = random_tensor(DType::f32, {15}, 2);
  const Tensor image = random_tensor(DType::f32, {2, 2, 16}, 3);
  Guarded out(DType::f32, {2, 16}), sums(DType::f64, {2, 3, 2});
  EXPECT_THROW(ops::rms_norm(ctx, x, weight, {}, kEps, out), Error);
  EXPECT_THROW(ops::layer_norm_scaled(ctx, x, weight, kEps, out), Error);
  EXPECT_THROW(ops::add_gated_rms_norm(ctx, x, {weight, {}, kEps}, out), Error);
  const Tensor fitting = random_tensor(DType::f32, {16}, 4);
  EXPECT_THROW(ops::add_gated_rms_norm(ctx, x, {fitting, {}, kEps}, out, {weight, {}, out}), Error);
  EXPECT_THROW(ops::group_norm_row_sums(ctx, image, sums), Error);  // 3 groups do not divide 16 channels
}

}  // namespace
}  // namespace nostos
