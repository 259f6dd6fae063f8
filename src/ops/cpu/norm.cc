// Implements normalisations on the row kernels.
#include <cmath>
#include <vector>

#include "ops/cpu/parallel.h"
#include "ops/cpu/row_kernels.h"
#include "ops/device_op.h"
#include "ops/norm.h"
#include "ops/typed.h"

namespace nostos::ops {

using namespace cpu;

void run(OnCpu<rms_norm>, Context& ctx, ConstView x, ConstView weight, ConstView scale, float eps, View out) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* in = x.data<float>();
  const float* w = weight.data<float>();
  const float* s = optional_data<float>(scale);
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) row_kernels().of<Out>().rms_norm(in + r * n, w, s, eps, n, to + r * n);
    });
  });
}

void run(OnCpu<layer_norm_scaled>, Context& ctx, ConstView x, ConstView scale, float eps, View out) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* in = x.data<float>();
  const float* s = scale.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) row_kernels().of<Out>().layer_norm(in + r * n, s, eps, n, to + r * n);
    });
  });
}

namespace {

template <class Out>
void make_next(const float* x, const NextNorm& next, float eps, int64_t n, Out* out) {
  const OutputKernels<Out>& kernels = row_kernels().of<Out>();
  if (!next.weight) return kernels.scale(x, 1.f, n, out);
  kernels.rms_norm(x, next.weight.data<float>(), optional_data<float>(next.scale), eps, n, out);
}

}  // namespace

void run(OnCpu<add_gated_rms_norm>, Context& ctx, ConstView projected, const GatedNorm& norm, View x,
         const NextNorm& next) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* p = projected.data<float>();
  const float* w = norm.weight.data<float>();
  const float* g = optional_data<float>(norm.gate);
  const float eps = norm.eps;
  float* to = x.data<float>();
  with_elements(next.out, [&]<class Out>(Out* normed) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        row_kernels().add_gated_rms_norm(p + r * n, w, g, eps, n, to + r * n);
        if (normed != nullptr) make_next(to + r * n, next, eps, n, normed + r * n);
      }
    });
  });
}

void run(OnCpu<add_gated>, Context& ctx, ConstView projected, const GatedBias& by, View x, const NextNorm& next) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* p = projected.data<float>();
  const float* bias = by.bias.data<float>();
  float* to = x.data<float>();
  with_elements(next.out, [&]<class Out>(Out* normed) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      std::vector<float> sum(static_cast<size_t>(n));
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] = p[r * n + i] + bias[i];
        row_kernels().add_gated(sum.data(), by.gate.data<float>(), n, to + r * n);
        if (normed != nullptr) make_next(to + r * n, next, by.eps, n, normed + r * n);
      }
    });
  });
}

void run(OnCpu<adaptive_layer_norm>, Context& ctx, ConstView x, const AdaptiveNorm& norm, View out) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* in = x.data<float>();
  const ScaleShift by{norm.scale.data<float>(), norm.shift.data<float>()};
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        row_kernels().of<Out>().adaptive_norm(in + r * n, by, norm.eps, n, to + r * n);
    });
  });
}

void run(OnCpu<add_gated_adaptive_norm>, Context& ctx, ConstView projected, ConstView gate, View x,
         const AdaptiveNorm& next, View out) {
  const int64_t rows = x.shape()[0], n = x.shape()[1];
  const float* p = projected.data<float>();
  const float* g = gate.data<float>();
  const ScaleShift by{optional_data<float>(next.scale), optional_data<float>(next.shift)};
  float* to = x.data<float>();
  with_elements(out, [&]<class Out>(Out* normed) {
    parallel_ranges(ctx, rows, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        row_kernels().add_gated(p + r * n, g, n, to + r * n);
        if (normed != nullptr) row_kernels().of<Out>().adaptive_norm(to + r * n, by, next.eps, n, normed + r * n);
      }
    });
  });
}

void run(OnCpu<group_norm_row_sums>, Context& ctx, ConstView x, View sums) {
  const int64_t height = x.shape()[0], width = x.shape()[1], channels = x.shape()[2], groups = sums.shape()[1];
  const int64_t group_channels = channels / groups;
  const float* in = x.data<float>();
  double* out = sums.data<double>();
  parallel_ranges(ctx, height, row_grain(width * channels), [&](int64_t begin, int64_t end) {
    std::vector<double> channel(static_cast<size_t>(2 * channels));
    for (int64_t y = begin; y < end; ++y) {
      std::fill(channel.begin(), channel.end(), 0.0);
      row_kernels().channel_sums(in + y * width * channels, width, channels, channel.data(), channel.data() + channels);
      for (int64_t g = 0; g < groups; ++g) {
        double sum = 0, square = 0;
        for (int64_t c = g * group_channels; c < (g + 1) * group_channels; ++c) {
          sum += channel[static_cast<size_t>(c)];
          square += channel[static_cast<size_t>(channels + c)];
        }
        out[(y * groups + g) * 2] = sum;
        out[(y * groups + g) * 2 + 1] = square;
      }
    }
  });
}

void run(OnCpu<group_norm_apply>, Context& ctx, ConstView x, ConstView sums, int64_t row_pixels, const GroupNorm& norm,
         View out) {
  const int64_t height = x.shape()[0], width = x.shape()[1], channels = x.shape()[2];
  const int64_t total_height = sums.shape()[0], groups = sums.shape()[1], group_channels = channels / groups;
  const double count = static_cast<double>(total_height) * static_cast<double>(row_pixels * group_channels);
  const double* in_sums = sums.data<double>();
  const float* w = norm.weight.data<float>();
  const float* b = norm.bias.data<float>();
  std::vector<float> factor(static_cast<size_t>(channels)), offset(static_cast<size_t>(channels));
  for (int64_t g = 0; g < groups; ++g) {
    double sum = 0, square = 0;
    for (int64_t y = 0; y < total_height; ++y) {
      sum += in_sums[(y * groups + g) * 2];
      square += in_sums[(y * groups + g) * 2 + 1];
    }
    const double mean = sum / count;
    const double inverse = 1.0 / std::sqrt(std::max(square / count - mean * mean, 0.0) + static_cast<double>(norm.eps));
    for (int64_t c = g * group_channels; c < (g + 1) * group_channels; ++c) {
      factor[static_cast<size_t>(c)] = static_cast<float>(inverse * static_cast<double>(w[c]));
      offset[static_cast<size_t>(c)] =
          static_cast<float>(static_cast<double>(b[c]) - mean * inverse * static_cast<double>(w[c]));
    }
  }
  const float* in = x.data<float>();
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, height, row_grain(width * channels), [&](int64_t begin, int64_t end) {
      const int64_t at = begin * width * channels;
      row_kernels().of<Out>().affine(in + at, {factor.data(), offset.data(), channels, norm.silu},
                                     (end - begin) * width, to + at);
    });
  });
}

}  // namespace nostos::ops
