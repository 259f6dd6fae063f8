// Owns the plain double-precision form of every op: the oracle that backends are compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/attention.h"
#include "ops/conv.h"

namespace nostos::reference {

/// Elements of a row-major tensor.
using Values = std::vector<double>;

inline size_t at(int64_t index) { return static_cast<size_t>(index); }

inline double silu(double x) { return x / (1 + std::exp(-x)); }

/// x [rows, in] times weight [out, in] transposed, plus bias [out] unless empty.
inline Values linear(const Values& x, const Values& weight, const Values& bias, int64_t rows, int64_t in, int64_t out) {
  Values y(at(rows * out));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = bias.empty() ? 0 : bias[at(o)];
      for (int64_t i = 0; i < in; ++i) sum += x[at(r * in + i)] * weight[at(o * in + i)];
      y[at(r * out + o)] = sum;
    }
  }
  return y;
}

/// Rows of n elements; `scale` may be empty.
inline Values rms_norm(const Values& x, const Values& weight, const Values& scale, double eps, int64_t n) {
  Values out(x.size());
  for (size_t begin = 0; begin < x.size(); begin += at(n)) {
    double squares = 0;
    for (size_t i = 0; i < at(n); ++i) squares += x[begin + i] * x[begin + i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (size_t i = 0; i < at(n); ++i)
      out[begin + i] = x[begin + i] * inverse * weight[i] * (scale.empty() ? 1 : scale[i]);
  }
  return out;
}

inline Values layer_norm_scaled(const Values& x, const Values& scale, double eps, int64_t n) {
  Values out(x.size());
  for (size_t begin = 0; begin < x.size(); begin += at(n)) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < at(n); ++i) mean += x[begin + i] / static_cast<double>(n);
    for (size_t i = 0; i < at(n); ++i) squares += (x[begin + i] - mean) * (x[begin + i] - mean);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (size_t i = 0; i < at(n); ++i) out[begin + i] = (x[begin + i] - mean) * inverse * scale[i];
  }
  return out;
}

struct GroupStatistics {
  double mean, inverse;  ///< inverse: 1 / sqrt(variance + eps)
};

/// x [pixels, channels] of one whole image.
inline std::vector<GroupStatistics> group_statistics(const Values& x, double eps, int64_t channels, int64_t groups) {
  const int64_t pixels = static_cast<int64_t>(x.size()) / channels, width = channels / groups;
  std::vector<GroupStatistics> statistics;
  for (int64_t g = 0; g < groups; ++g) {
    Values group;
    for (int64_t p = 0; p < pixels; ++p) {
      group.insert(group.end(), x.begin() + p * channels + g * width, x.begin() + p * channels + (g + 1) * width);
    }
    double mean = 0, variance = 0;
    for (const double value : group) mean += value / static_cast<double>(group.size());
    for (const double value : group) variance += (value - mean) * (value - mean) / static_cast<double>(group.size());
    statistics.push_back({mean, 1 / std::sqrt(variance + eps)});
  }
  return statistics;
}

/// x [pixels, channels] of one whole image.
inline Values group_norm(const Values& x, const Values& weight, const Values& bias, double eps, bool with_silu,
                         int64_t channels, int64_t groups) {
  const std::vector<GroupStatistics> statistics = group_statistics(x, eps, channels, groups);
  Values out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i % at(channels);
    const GroupStatistics& group = statistics[c / at(channels / groups)];
    const double y = (x[i] - group.mean) * group.inverse * weight[c] + bias[c];
    out[i] = with_silu ? silu(y) : y;
  }
  return out;
}

struct Heads {
  Values q, k, v;  ///< head-major
};

/// qkv [tokens, (heads + 2 kv_heads) head_dim], norms [head_dim] or empty, cos and sin [tokens, head_dim / 2].
inline Heads split_heads_rope(const Values& qkv, const Values& q_norm, const Values& k_norm, double eps,
                              const Values& cos, const Values& sin, ops::RotaryPairs pairs, int64_t tokens,
                              int64_t heads, int64_t kv_heads, int64_t head_dim) {
  const int64_t all = heads + 2 * kv_heads, half = head_dim / 2;
  Heads made{Values(at(heads * tokens * head_dim)), Values(at(kv_heads * tokens * head_dim)),
             Values(at(kv_heads * tokens * head_dim))};
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < all; ++h) {
      const auto from = qkv.begin() + (t * all + h) * head_dim;
      Values head(from, from + head_dim);
      const bool is_q = h < heads, is_k = !is_q && h < heads + kv_heads;
      const Values& norm = is_q ? q_norm : k_norm;
      if ((is_q || is_k) && !norm.empty()) head = rms_norm(head, norm, {}, eps, head_dim);
      if (is_q || is_k) {
        for (int64_t i = 0; i < half; ++i) {
          const int64_t first = pairs == ops::RotaryPairs::interleaved ? 2 * i : i;
          const int64_t second = pairs == ops::RotaryPairs::interleaved ? 2 * i + 1 : i + half;
          const double a = head[at(first)], b = head[at(second)], c = cos[at(t * half + i)], s = sin[at(t * half + i)];
          head[at(first)] = a * c - b * s;
          head[at(second)] = a * s + b * c;
        }
      }
      Values& to = is_q ? made.q : is_k ? made.k : made.v;
      const int64_t index = is_q ? h : is_k ? h - heads : h - heads - kv_heads;
      std::copy(head.begin(), head.end(), to.begin() + (index * tokens + t) * head_dim);
    }
  }
  return made;
}

/// q [heads, queries, head_dim], k and v [kv_heads, keys, head_dim] to [queries, heads * head_dim].
inline Values attention(const Values& q, const Values& k, const Values& v, double scale, bool causal, int64_t heads,
                        int64_t kv_heads, int64_t queries, int64_t keys, int64_t head_dim) {
  Values out(at(queries * heads * head_dim));
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t kv = h / (heads / kv_heads);
    for (int64_t t = 0; t < queries; ++t) {
      const int64_t seen = causal ? t + 1 : keys;
      Values p(at(seen));
      for (int64_t j = 0; j < seen; ++j) {
        for (int64_t d = 0; d < head_dim; ++d)
          p[at(j)] += scale * q[at((h * queries + t) * head_dim + d)] * k[at((kv * keys + j) * head_dim + d)];
      }
      const double top = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& value : p) sum += value = std::exp(value - top);
      for (int64_t j = 0; j < seen; ++j) {
        for (int64_t d = 0; d < head_dim; ++d) {
          out[at((t * heads + h) * head_dim + d)] += p[at(j)] / sum * v[at((kv * keys + j) * head_dim + d)];
        }
      }
    }
  }
  return out;
}

/// x [height, width, in], filter [out, in, kernel, kernel], bias [out] to [out height, out width, out].
inline Values conv2d(const Values& x, const Values& filter, const Values& bias, int64_t height, int64_t width,
                     int64_t in, int64_t out, int64_t kernel, int64_t stride, const Padding& pad) {
  const int64_t out_height = (height + pad.top + pad.bottom - kernel) / stride + 1;
  const int64_t out_width = (width + pad.left + pad.right - kernel) / stride + 1;
  Values y(at(out_height * out_width * out));
  for (int64_t oy = 0; oy < out_height; ++oy) {
    for (int64_t ox = 0; ox < out_width; ++ox) {
      for (int64_t o = 0; o < out; ++o) {
        double sum = bias[at(o)];
        for (int64_t ky = 0; ky < kernel; ++ky) {
          for (int64_t kx = 0; kx < kernel; ++kx) {
            const int64_t iy = oy * stride - pad.top + ky, ix = ox * stride - pad.left + kx;
            if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
            for (int64_t i = 0; i < in; ++i) {
              sum += x[at((iy * width + ix) * in + i)] * filter[at(((o * in + i) * kernel + ky) * kernel + kx)];
            }
          }
        }
        y[at((oy * out_width + ox) * out + o)] = sum;
      }
    }
  }
  return y;
}

/// "c (h ph) (w pw) -> (h w) (ph pw c)".
inline Values patchify(const Values& latents, int64_t channels, int64_t height, int64_t width, int64_t patch) {
  Values tokens;
  for (int64_t h = 0; h < height / patch; ++h) {
    for (int64_t w = 0; w < width / patch; ++w) {
      for (int64_t ph = 0; ph < patch; ++ph) {
        for (int64_t pw = 0; pw < patch; ++pw) {
          for (int64_t c = 0; c < channels; ++c) {
            tokens.push_back(latents[at((c * height + h * patch + ph) * width + w * patch + pw)]);
          }
        }
      }
    }
  }
  return tokens;
}

/// Element-wise absolute values: sums of absolute products bound rounding errors.
inline Values absolute(Values values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

}  // namespace nostos::reference
