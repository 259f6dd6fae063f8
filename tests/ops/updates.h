// Owns random updates of weights for tests, and the plain double-precision form of what they add.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "ops/linear_update.h"
#include "ops/support.h"
#include "tensor/transfer.h"

namespace nostos {

/// Which terms an update has.
struct UpdateKinds {
  bool low_rank = false, kronecker = false, dense = false, scale = false;
};

inline const std::vector<UpdateKinds> kUpdateKinds = {
    {true, false, false, false}, {false, true, false, false}, {false, false, true, false}, {false, false, false, true},
    {true, true, false, false},  {true, false, false, true},  {false, true, true, true},   {true, true, true, true}};

inline std::string to_string(const UpdateKinds& kinds) {
  return fmt::format("{}{}{}{}", kinds.low_rank ? " low rank" : "", kinds.kronecker ? " Kronecker" : "",
                     kinds.dense ? " dense" : "", kinds.scale ? " scale" : "");
}

/// \return a copy in f32.
inline Tensor widened(ConstView of) {
  Tensor made(Device{}, DType::f32, of.shape());
  for (int64_t i = 0; i < of.elements(); ++i) made.data<float>()[i] = static_cast<float>(value_at(of, i));
  return made;
}

/// An update of a weight [out, in] whose numbers `dtype` holds exactly.
class RandomUpdate {
 public:
  RandomUpdate(DType dtype, int64_t out, int64_t in, const UpdateKinds& kinds, int64_t rank = 5)
      : dtype_(dtype), out_(out), in_(in), rank_(kinds.low_rank ? rank : 0), kinds_(kinds) {
    b_ = in % 4 == 0 ? 4 : 1;
    a_ = out % 6 == 0 ? 6 : (out % 2 == 0 ? 2 : 1);
    down_ = numbers({rank, in}, 11), up_ = numbers({out, rank}, 12);
    left_ = random_tensor(DType::f32, {a_, b_}, 13), right_ = numbers({out / a_, in / b_}, 14);
    dense_ = numbers({out, in}, 15), scale_ = random_tensor(DType::f32, {out}, 16, 0.5f, 2.f);
  }

  /// \param named where rows of the weight stand, or nothing where all stand in their order
  std::shared_ptr<const LinearUpdate> make(Context& ctx, const std::vector<NamedRows>& named = {}) const {
    std::vector<NamedRows> pieces = named;
    if (named.empty()) pieces.push_back({"", 0, out_, out_, out_});
    std::vector<int64_t> places;
    for (const NamedRows& piece : pieces)
      for (int64_t i = 0; i < piece.count; ++i) places.push_back(piece.row(i));
    LinearUpdate made;
    if (kinds_.low_rank) made.low_rank = ops::make_low_rank(ctx, down_, placed(up_, places), dtype_);
    if (kinds_.dense) made.dense = ops::make_difference(ctx, placed(dense_, places), dtype_);
    if (kinds_.scale) {
      made.column_scale = Tensor(ctx.device(), DType::f32, {out_});
      const Tensor host = placed(scale_, places);
      upload(ctx, host, made.column_scale);
    }
    if (kinds_.kronecker) {
      int64_t first = 0;
      for (const NamedRows& piece : pieces) {
        const KroneckerRows rows{first, piece.count, piece.begin, piece.run, piece.stride};
        made.kronecker.push_back(ops::make_kronecker(ctx, left_, right_, rows, dtype_));
        first += piece.count;
      }
      if (named.empty() && some_rows().count > 0)
        made.kronecker.push_back(ops::make_kronecker(ctx, left_, right_, some_rows(), dtype_));
    }
    ctx.synchronize("test");
    return std::make_shared<const LinearUpdate>(std::move(made));
  }

  /// What a product of `rows` has: without updates the sums, and their sizes: the same of absolute values.
  struct Sums {
    Values value, size;
    Values rounded;  ///< of the sizes, what passes through a rounded x down^T
  };
  /// \param in_pieces whether the update was made for rows in other places
  Sums sums(const Values& x, const Values& weight, int64_t rows, bool in_pieces = false) const {
    Values changed = weight, size = reference::absolute(weight), rounded(weight.size());
    const auto add = [&](int64_t at, double value) {
      changed[reference::at(at)] += value;
      size[reference::at(at)] += std::abs(value);
    };
    for (int64_t o = 0; o < out_; ++o) {
      for (int64_t i = 0; i < in_; ++i) {
        for (int64_t r = 0; r < rank_; ++r) {
          const double value = value_at(up_, o * rank_ + r) * value_at(down_, r * in_ + i);
          add(o * in_ + i, value);
          rounded[reference::at(o * in_ + i)] += std::abs(value);
        }
        if (kinds_.dense) add(o * in_ + i, value_at(dense_, o * in_ + i));
        if (kinds_.kronecker) add(o * in_ + i, kronecker(o, i));
      }
    }
    const KroneckerRows some = some_rows();
    for (int64_t k = 0; kinds_.kronecker && !in_pieces && k < some.count; ++k)
      for (int64_t i = 0; i < in_; ++i) add(some.row(k) * in_ + i, kronecker(some.first_row + k, i));
    const Values x_size = reference::absolute(x);
    Sums made{reference::linear(x, changed, {}, rows, in_, out_), reference::linear(x_size, size, {}, rows, in_, out_),
              reference::linear(x_size, rounded, {}, rows, in_, out_)};
    for (Values* each : {&made.value, &made.size, &made.rounded})
      for (size_t i = 0; kinds_.scale && i < each->size(); ++i)
        (*each)[i] *= value_at(scale_, static_cast<int64_t>(i) % out_);
    return made;
  }

  /// \return what output `out` is multiplied with.
  double scale(int64_t out) const { return kinds_.scale ? value_at(scale_, out) : 1; }

  /// \return how many roundings a sum passes at most.
  int64_t additions() const { return in_ + rank_ + 2 * b_ + 16; }

 private:
  Tensor numbers(const Shape& shape, uint32_t seed) const { return widened(random_tensor(dtype_, shape, seed)); }

  static Tensor placed(const Tensor& rows, const std::vector<int64_t>& places) {
    Tensor made(Device{}, DType::f32, rows.shape());
    const int64_t width = rows.shape().elements() / rows.shape()[0];
    for (size_t i = 0; i < places.size(); ++i) {
      std::copy_n(rows.data<float>() + static_cast<int64_t>(i) * width, width, made.data<float>() + places[i] * width);
    }
    return made;
  }

  double kronecker(int64_t o, int64_t i) const {
    const int64_t c = out_ / a_, d = in_ / b_;
    return value_at(left_, o / c * b_ + i / d) * value_at(right_, o % c * d + i % d);
  }

  /// The product's last rows, three side by side and one left out.
  KroneckerRows some_rows() const {
    const int64_t count = (out_ - 1) / 4 * 3;
    return {out_ - count, count, 1, 3, 4};
  }

  DType dtype_;
  int64_t out_, in_, rank_, a_ = 1, b_ = 1;
  UpdateKinds kinds_;
  Tensor down_, up_, left_, right_, dense_, scale_;
};

}  // namespace nostos
