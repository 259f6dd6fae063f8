// Tests sequences with pads at their end: against the formula in float64, and that they change no bit of other rows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "device/arena.h"
#include "nn/attention.h"
#include "ops/support.h"

namespace nostos::nn {
namespace {

constexpr int64_t kHidden = 24, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kMostRows = 80;

/// A causal layer with grouped heads, as Qwen3's.
struct Layer {
  explicit Layer(DType of) : dtype(of) {
    shape = {kHeads, kKvHeads, kHeadDim, 1e-6f, ops::RotaryPairs::half_split, true};
    qkv = random_tensor(dtype, {shape.qkv_width(), kHidden}, 3);
    out = random_tensor(dtype, {kHidden, kHeads * kHeadDim}, 4);
    Context ctx({}, 1);
    weights = {ops::pack_linear(ctx, qkv), q_norm, k_norm, ops::pack_linear(ctx, out)};
    fill_sequence_rope(ctx, 100, rope.table());
  }

  DType dtype;
  AttentionShape shape;
  Tensor qkv, out;
  Tensor q_norm = random_tensor(DType::f32, {kHeadDim}, 1), k_norm = random_tensor(DType::f32, {kHeadDim}, 2);
  RopeStorage rope{Device{}, kMostRows, kHeadDim};
  AttentionWeights weights;
};

/// A sequence's rows: real ones, then pads.
struct Rows {
  int64_t real = 0, pads = 0;

  int64_t all() const { return real + pads; }
};

/// \return the layer's output for sequences whose rows stand one after the other in `x`.
Tensor attend(const Layer& layer, std::span<const Rows> each, ConstView x) {
  Context ctx({}, 2);
  std::vector<ShardedSequence> owners;
  for (const Rows& rows : each) owners.emplace_back(rows.all());
  std::vector<AttendedSequence> sequences;
  for (size_t i = 0; i < each.size(); ++i)
    sequences.push_back({&owners[i], layer.rope.first(each[i].all()), each[i].pads});
  const auto take = [&](Arena& arena) {
    return AttentionScratch::take(arena, layer.shape, pointers_to(owners), layer.dtype);
  };
  Arena measure(Device{});
  take(measure);
  Arena arena(Device{}, measure.peak_bytes());
  std::fill_n(arena.take(measure.peak_bytes()), measure.peak_bytes(), std::byte{0xFF});  // what nobody fills shows
  arena.rewind(0);
  Tensor projected({}, DType::f32, {x.shape()[0], kHidden});
  attention(ctx, sequences, layer.shape, {&layer.weights, 1}, {x, projected}, take(arena));
  return projected;
}

using Matrix = std::vector<std::vector<double>>;  // [rows][columns]

/// \return x W^T.
Matrix product(const Matrix& x, ConstView weight) {
  Matrix made;
  for (const std::vector<double>& row : x) {
    std::vector<double>& sums = made.emplace_back(static_cast<size_t>(weight.shape()[0]));
    for (size_t o = 0; o < sums.size(); ++o)
      for (size_t i = 0; i < row.size(); ++i)
        sums[o] += row[i] * static_cast<double>(weight.data<float>()[o * row.size() + i]);
  }
  return made;
}

/// \return a head of a row of q, k and v, normalised and rotated if it has weights of a norm.
std::vector<double> head(const std::vector<double>& row, int64_t index, ConstView norm, int64_t position) {
  const auto begin = row.begin() + index * kHeadDim;
  std::vector<double> values(begin, begin + kHeadDim), turned(values.size());
  if (!norm) return values;
  double squares = 0;
  for (const double value : values) squares += value * value;
  for (size_t i = 0; i < values.size(); ++i)
    values[i] *= static_cast<double>(norm.data<float>()[i]) / std::sqrt(squares / kHeadDim + 1e-6);
  constexpr size_t kHalf = kHeadDim / 2;
  for (size_t i = 0; i < kHalf; ++i) {
    const double angle = static_cast<double>(position) * std::pow(100.0, -static_cast<double>(i) / kHalf);
    turned[i] = values[i] * std::cos(angle) - values[i + kHalf] * std::sin(angle);
    turned[i + kHalf] = values[i + kHalf] * std::cos(angle) + values[i] * std::sin(angle);
  }
  return turned;
}

/// \return the mask that transformers makes of a causal mask and an attention_mask whose pads are 0: minus infinity
/// where a row may not attend.
double mask(int64_t query, int64_t key, const Rows& rows) {
  return key <= query && key < rows.real ? 0 : -std::numeric_limits<double>::infinity();
}

/// \return the layer's output in float64, from the masked scores of all rows with all rows.
Matrix reference(const Layer& layer, const Rows& rows, const Matrix& x) {
  const Matrix qkv = product(x, layer.qkv);
  Matrix mixed(x.size(), std::vector<double>(kHeads * kHeadDim));
  for (int64_t h = 0; h < kHeads; ++h) {
    const int64_t kv = kHeads + h / (kHeads / kKvHeads);
    for (int64_t query = 0; query < rows.all(); ++query) {
      const std::vector<double> q = head(qkv[static_cast<size_t>(query)], h, layer.q_norm, query);
      double sum = 0;
      std::vector<double> weighted(kHeadDim);
      for (int64_t key = 0; key < rows.all(); ++key) {
        const std::vector<double>& row = qkv[static_cast<size_t>(key)];
        const std::vector<double> k = head(row, kv, layer.k_norm, key), v = head(row, kv + kKvHeads, {}, key);
        double score = mask(query, key, rows);
        for (size_t i = 0; i < k.size(); ++i) score += q[i] * k[i] / std::sqrt(double{kHeadDim});
        const double weight = std::exp(score);
        sum += weight;
        for (size_t i = 0; i < v.size(); ++i) weighted[i] += weight * v[i];
      }
      for (size_t i = 0; i < weighted.size(); ++i)
        mixed[static_cast<size_t>(query)][static_cast<size_t>(h * kHeadDim) + i] = weighted[i] / sum;
    }
  }
  return product(mixed, layer.out);
}

TEST(AttentionPads, AttendAsTransformersMasksSay) {
  const Layer layer(DType::f32);
  double worst = 0;
  for (const Rows& rows : {Rows{1, 0}, {1, 1}, {1, 40}, {2, 3}, {17, 1}, {17, 46}, {33, 31}, {64, 16}, {80, 0}}) {
    const Tensor x = random_tensor(DType::f32, {rows.all(), kHidden}, 7);
    Matrix values;
    for (int64_t row = 0; row < rows.all(); ++row)
      values.emplace_back(x.data<float>() + row * kHidden, x.data<float>() + (row + 1) * kHidden);
    const Matrix wanted = reference(layer, rows, values);
    const Tensor made = attend(layer, {&rows, 1}, x);
    for (int64_t i = 0; i < made.shape().elements(); ++i) {
      const double error = std::abs(static_cast<double>(made.data<float>()[i]) -
                                    wanted[static_cast<size_t>(i / kHidden)][static_cast<size_t>(i % kHidden)]);
      worst = std::max(worst, std::isnan(error) ? 1 : error);
      ASSERT_LE(worst, 2e-5)  // measured: 2e-6
          << rows.real << " rows and " << rows.pads << " pads: row " << i / kHidden;
    }
  }
  RecordProperty("worst_error", fmt::format("{:.1e}", worst));
}

TEST(AttentionPads, ChangeNoBitOfTheRowsBeforeThem) {
  for (const DType dtype : product_dtypes()) {
    const Layer layer(dtype);
    for (const int64_t real : {1, 5, 32, 39}) {
      const Tensor x = random_tensor(dtype, {kMostRows, kHidden}, 7);
      const Rows alone{real, 0};
      const Tensor wanted = attend(layer, {&alone, 1}, x.view().rows(0, real));
      for (const int64_t pads : {1, 7, 40}) {
        const Rows padded{real, pads};
        const Tensor made = attend(layer, {&padded, 1}, x.view().rows(0, padded.all()));
        EXPECT_EQ(std::memcmp(made.view().bytes(), wanted.view().bytes(), wanted.size_in_bytes()), 0)
            << real << " rows before " << pads << " pads in " << name(dtype);
      }
    }
  }
}

// A pad attends to the rows before alone: neither other pads nor their number matter to it.
TEST(AttentionPads, DependOnNoOtherPad) {
  for (const DType dtype : product_dtypes()) {
    const Layer layer(dtype);
    const Tensor x = random_tensor(dtype, {kMostRows, kHidden}, 7);
    const Rows few{20, 3}, many{20, 50};
    const Tensor a = attend(layer, {&few, 1}, x.view().rows(0, few.all())),
                 b = attend(layer, {&many, 1}, x.view().rows(0, many.all()));
    EXPECT_EQ(std::memcmp(a.view().bytes(), b.view().bytes(), a.size_in_bytes()), 0) << name(dtype);
  }
}

TEST(AttentionPads, SequencesThatShareALayerGetTheBitsOfEachAlone) {
  for (const DType dtype : product_dtypes()) {
    const Layer layer(dtype);
    const std::array<Rows, 5> each{Rows{1, 15}, {39, 0}, {7, 41}, {32, 32}, {7, 1}};
    int64_t all = 0;
    for (const Rows& rows : each) all += rows.all();
    const Tensor x = random_tensor(dtype, {all, kHidden}, 9);
    const Tensor together = attend(layer, each, x);
    int64_t begin = 0;
    for (const Rows& rows : each) {
      const Tensor alone = attend(layer, {&rows, 1}, x.view().rows(begin, rows.all()));
      EXPECT_EQ(std::memcmp(alone.view().bytes(), together.view().rows(begin, rows.all()).bytes(),
                            alone.size_in_bytes()),
                0)
          << rows.real << " rows and " << rows.pads << " pads from " << begin << " in " << name(dtype);
      begin += rows.all();
    }
  }
}

}  // namespace
}  // namespace nostos::nn
