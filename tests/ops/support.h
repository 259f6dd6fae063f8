// Owns what op tests share: random and guarded tensors, unit roundoffs, and comparisons against a bound of each
// element.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "base/error.h"
#include "ops/linear.h"
#include "ops/reference.h"
#include "tensor/tensor.h"

namespace nostos {

using reference::Values;

/// Unit roundoffs: half the distance of neighbouring numbers near 1.
inline constexpr double kUnitF32 = 0x1p-24;
inline constexpr double kUnitBf16 = 0x1p-8;
/// Relative error that the row kernels promise for exp.
inline constexpr double kExpError = 2e-7;

/// Error of a float32 sum of `terms` products in any order, as a part of the sum of their absolute values: (terms + 2)
/// u at worst, and 6 sqrt(terms) u but for a chance of 1e-7 (Higham and Mary, SIAM J. Sci. Comput. 41, 2019).
inline double sum_error(int64_t terms) {
  return std::min(static_cast<double>(terms + 2), 6 * std::sqrt(static_cast<double>(terms + 2))) * kUnitF32;
}

inline double unit(DType dtype) { return dtype == DType::bf16 ? kUnitBf16 : kUnitF32; }

/// Packs gate rows, then up rows [2 * ffn, in], for ops::gated_linear().
inline GatedLinear pack_gated(Context& ctx, ConstView weight) {
  const GatedShape shape{weight.shape()[1], weight.shape()[0] / 2, false};
  if (!ops::fuses_gated_linear(ctx.device(), weight.dtype(), shape)) return {ops::pack_linear(ctx, weight), false};
  Tensor interleaved(ctx.device(), weight.dtype(), weight.shape());
  ops::interleave_gates(ctx, weight, interleaved);
  return {ops::pack_linear(ctx, interleaved), true};
}

/// \return a tensor of uniform values in [low, high), the same for a seed whatever its dtype (f32 or bf16), up to
/// rounding.
inline Tensor random_tensor(DType dtype, const Shape& shape, uint32_t seed, float low = -1, float high = 1) {
  Tensor made(Device{}, dtype, shape);
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < shape.elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = low + (high - low) * static_cast<float>(state >> 8) * 0x1p-24f;
    if (dtype == DType::bf16)
      made.data<bfloat16>()[i] = to_bfloat16(value);
    else
      made.data<float>()[i] = value;
  }
  return made;
}

inline double value_at(ConstView view, int64_t i) {
  if (view.dtype() == DType::bf16) return static_cast<double>(to_float(view.data<bfloat16>()[i]));
  if (view.dtype() == DType::f64) return view.data<double>()[i];
  return static_cast<double>(view.data<float>()[i]);
}

/// \return all elements of an f32, bf16 or f64 view; nothing for an absent one.
inline Values values(ConstView view) {
  Values all;
  if (!view) return all;
  for (int64_t i = 0; i < view.elements(); ++i) all.push_back(value_at(view, i));
  return all;
}

/// Copies the bytes of `from` to `to`, which has as many; both may be empty.
inline void copy_bytes(ConstView from, View to) { std::copy_n(from.bytes(), from.size_in_bytes(), to.bytes()); }

/// An output with a guard row before and after it: ops must fill the output and leave the guards alone.
class Guarded {
 public:
  Guarded(DType dtype, const Shape& shape) : rows_(shape[0]) {
    Shape with_guards{rows_ + 2};
    for (int axis = 1; axis < shape.rank(); ++axis) with_guards.push_back(shape[axis]);
    tensor_ = Tensor(Device{}, dtype, with_guards);
    std::fill_n(tensor_.view().bytes(), tensor_.size_in_bytes(), std::byte{kGuard});
  }
  View view() { return tensor_.view().rows(1, rows_); }
  operator View() { return view(); }
  operator ConstView() { return view(); }

  void expect_guards_untouched() {
    for (const int64_t row : {int64_t{0}, rows_ + 1}) {
      const View guard = tensor_.view().rows(row, 1);
      for (size_t i = 0; i < guard.size_in_bytes(); ++i) {
        ASSERT_EQ(guard.bytes()[i], std::byte{kGuard}) << "written outside: guard row " << row << " byte " << i;
      }
    }
  }

 private:
  static constexpr unsigned char kGuard = 0xA5;
  int64_t rows_;
  Tensor tensor_;
};

/// \return a flag of an op that is not set.
inline Tensor cleared_flag() {
  Tensor flag(Device{}, DType::i32, {1});
  *flag.data<int32_t>() = 0;
  return flag;
}

/// Expects |actual - expected| <= bound for every element. \return the largest error as a part of its bound.
inline double expect_within(ConstView actual, const Values& expected, const Values& bound, const std::string& what) {
  EXPECT_EQ(actual.elements(), static_cast<int64_t>(expected.size())) << what;
  double worst = 0;
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const size_t at = static_cast<size_t>(i);
    const double error = std::abs(value_at(actual, i) - expected[at]);
    if (!(error <= bound[at])) {
      ADD_FAILURE() << what << " element " << i << ": " << value_at(actual, i) << " instead of " << expected[at]
                    << ", error " << error << " above the bound " << bound[at];
      return 1;
    }
    if (bound[at] > 0) worst = std::max(worst, error / bound[at]);
  }
  return worst;
}

inline bool same_bits(ConstView a, ConstView b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::equal(a.bytes(), a.bytes() + a.size_in_bytes(), b.bytes());
}

/// Largest errors seen in a test as parts of their bounds, by the output's dtype, kept in the test's XML record.
class WorstError {
 public:
  ~WorstError() {
    for (const auto& [dtype, part] : worst_) {
      testing::Test::RecordProperty("worst_part_of_bound_" + std::string(name(dtype)), fmt::format("{:.2g}", part));
    }
  }
  void operator()(DType dtype, double part) { worst_[dtype] = std::max(worst_[dtype], part); }

 private:
  std::map<DType, double> worst_;
};

/// The dtypes that this CPU multiplies: f32, and bf16 where it is native.
inline std::vector<DType> product_dtypes() {
  Context ctx({}, 1);
  if (ops::has_bf16_products(ctx)) return {DType::f32, DType::bf16};
  return {DType::f32};
}

}  // namespace nostos
