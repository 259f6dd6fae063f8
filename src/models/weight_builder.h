// Owns the step from named checkpoint tensors to the weights that ops take: conversion, stacking, packing.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "device/context.h"
#include "models/weight_source.h"
#include "ops/conv.h"
#include "ops/linear.h"
#include "tensor/tensor.h"

namespace nostos {

/// What keeps a model's views alive.
struct WeightStorage {
  std::vector<Tensor> tensors;
  std::shared_ptr<WeightSource> source;  ///< for tables that are read where they lie
  size_t bytes = 0;                      ///< resident bytes of all weights, packed ones included
};

/// The visitor that a model's weights walk through: it names every tensor with its expected shape and turns it into
/// what ops take.
/// With a ListingSource nothing is made and every output stays empty.
class WeightBuilder {
 public:
  /// \param dtype of the block weights: f32 or bf16.
  WeightBuilder(Context& ctx, std::shared_ptr<WeightSource> source, DType dtype)
      : ctx_(ctx), source_(std::move(source)), dtype_(dtype) {}

  DType dtype() const { return dtype_; }

  /// A float32 vector or small tensor of `shape`.
  ConstView small(const std::string& name, const Shape& shape);
  /// Weights [out_i, in] named `names`, stacked along the outputs, in the block dtype, without bias.
  Linear stacked(std::initializer_list<std::string> names, std::initializer_list<int64_t> outs, int64_t in);
  /// Weights `gate` and `up` [ffn, in] of a SwiGLU layer, in the block dtype.
  GatedLinear gated(const std::string& gate, const std::string& up, const GatedShape& shape);
  /// `name`.weight [out, in] in `dtype`, with `name`.bias [out] if `bias`.
  Linear linear(const std::string& name, int64_t out, int64_t in, bool bias, DType dtype);
  /// `names`[i].weight [out, in] and .bias [out], stacked along the outputs, in the block dtype.
  Linear stacked_with_bias(std::initializer_list<std::string> names, int64_t out, int64_t in);
  /// `name`.weight [out, in, kernel, kernel] and `name`.bias [out] in the block dtype.
  Conv2d conv(const std::string& name, int64_t out, int64_t in, int64_t kernel);
  /// The same of a 3x3 filter for ops::upsampling_conv2d().
  Conv2d upsampling_conv(const std::string& name, int64_t out, int64_t in);
  /// A table that rows are looked up in, f32 or bf16; on the CPU it is read where it lies.
  ConstView table(const std::string& name, const Shape& shape);
  /// A tensor that the layout has and the engine never needs.
  void unneeded(const std::string& name, const Shape& shape) { source_->unneeded(name, shape); }

  /// Ends the walk. \throws Error model listing everything missing or misshapen. \return what keeps the views alive.
  WeightStorage finish();

 private:
  /// Enqueues a copy of host data, converted to to's dtype.
  void load(ConstView host, View to);
  /// \return memory for a tensor that is packed at once, valid until the next call: fresh pages for every weight would
  /// double load time.
  View stage(DType dtype, const Shape& shape);
  /// Copies `name` to `to`, converted to its dtype. \return false if the source gives no data.
  bool fetch(const std::string& name, const Shape& shape, View to);
  Linear pack(ConstView weight);
  /// conv(), packed by `pack`.
  Conv2d packed_conv(const std::string& name, const Shape& shape, Conv2d (*pack)(Context&, ConstView, ConstView));
  ConstView keep(Tensor tensor);

  Context& ctx_;
  std::shared_ptr<WeightSource> source_;
  DType dtype_;
  WeightStorage storage_;
  Buffer staging_, raw_;
};

}  // namespace nostos
