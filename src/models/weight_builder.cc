// Implements conversion, stacking and packing of weights.
#include "models/weight_builder.h"

#include <utility>

#include "base/error.h"
#include "ops/elementwise.h"
#include "tensor/transfer.h"

namespace nostos {

View WeightBuilder::stage(DType dtype, const Shape& shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * size_bytes(dtype);
  if (staging_.size_bytes() < bytes) staging_ = Buffer(ctx_.device(), bytes);
  return {staging_.data(), dtype, shape};
}

bool WeightBuilder::fetch(const std::string& name, const Shape& shape, View to) {
  const ConstView from = source_->tensor(name, shape);
  if (!from) return false;
  load(from, to);
  source_->release(name);
  return true;
}

void WeightBuilder::load(ConstView host, View to) {
  if (host.dtype() == to.dtype()) return upload(ctx_, host, to);
  if (ctx_.device().kind == DeviceKind::cpu) return ops::convert(ctx_, host, to);
  if (raw_.size_bytes() < host.size_in_bytes()) raw_ = Buffer(ctx_.device(), host.size_in_bytes());
  const View raw(raw_.data(), host.dtype(), host.shape());
  upload(ctx_, host, raw);
  ops::convert(ctx_, raw, to);
}

ConstView WeightBuilder::keep(Tensor tensor) {
  storage_.bytes += tensor.size_in_bytes();
  storage_.tensors.push_back(std::move(tensor));
  return std::as_const(storage_.tensors.back()).view();
}

Linear WeightBuilder::pack(ConstView weight) {
  Linear packed = ops::pack_linear(ctx_, weight);
  storage_.bytes += packed.size_in_bytes();
  return packed;
}

ConstView WeightBuilder::small(const std::string& name, const Shape& shape) {
  Tensor made(ctx_.device(), DType::f32, shape);
  if (!fetch(name, shape, made)) return {};
  return keep(std::move(made));
}

Linear WeightBuilder::stacked(std::initializer_list<std::string> names, std::initializer_list<int64_t> outs,
                              int64_t in) {
  int64_t all = 0;
  for (int64_t out : outs) all += out;
  const View made = stage(dtype_, {all, in});
  bool complete = true;
  int64_t row = 0;
  auto out = outs.begin();
  for (const std::string& name : names) {
    complete = fetch(name, {*out, in}, made.rows(row, *out)) && complete;
    row += *out++;
  }
  return complete ? pack(made) : Linear{};
}

GatedLinear WeightBuilder::gated(const std::string& gate, const std::string& up, const GatedShape& shape) {
  const auto& [in, ffn, few_rows] = shape;
  const View made = stage(dtype_, {2 * ffn, in});
  const bool has_gate = fetch(gate, {ffn, in}, made.rows(0, ffn)), has_up = fetch(up, {ffn, in}, made.rows(ffn, ffn));
  if (!has_gate || !has_up) return {};
  GatedLinear packed = ops::pack_gated_linear(ctx_, made, few_rows);
  storage_.bytes += packed.gate_up.size_in_bytes();
  return packed;
}

Linear WeightBuilder::linear(const std::string& name, int64_t out, int64_t in, bool bias, DType dtype) {
  const View made = stage(dtype, {out, in});
  const bool complete = fetch(name + ".weight", {out, in}, made);
  const ConstView bias_view = bias ? small(name + ".bias", {out}) : ConstView{};
  if (!complete) return {};
  Linear packed = pack(made);
  packed.bias = bias_view;
  return packed;
}

Linear WeightBuilder::stacked_with_bias(std::initializer_list<std::string> names, int64_t out, int64_t in) {
  const int64_t count = static_cast<int64_t>(names.size());
  const View weight = stage(dtype_, {count * out, in});
  Tensor bias(ctx_.device(), DType::f32, {count * out});
  bool complete = true;
  int64_t row = 0;
  for (const std::string& name : names) {
    complete = fetch(name + ".weight", {out, in}, weight.rows(row, out)) && complete;
    complete = fetch(name + ".bias", {out}, bias.view().rows(row, out)) && complete;
    row += out;
  }
  if (!complete) return {};
  Linear packed = pack(weight);
  packed.bias = keep(std::move(bias));
  return packed;
}

Conv2d WeightBuilder::conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
  return packed_conv(name, {out, in, kernel, kernel}, ops::pack_conv2d);
}

Conv2d WeightBuilder::upsampling_conv(const std::string& name, int64_t out, int64_t in) {
  return packed_conv(name, {out, in, 3, 3}, ops::pack_upsampling_conv2d);
}

Conv2d WeightBuilder::packed_conv(const std::string& name, const Shape& shape,
                                  Conv2d (*pack)(Context&, ConstView, ConstView)) {
  const View made = stage(dtype_, shape);
  const bool complete = fetch(name + ".weight", shape, made);
  const ConstView bias = small(name + ".bias", {shape[0]});
  if (!complete || !bias) return {};
  Conv2d packed = pack(ctx_, made, bias);
  storage_.bytes += packed.size_in_bytes();
  return packed;
}

ConstView WeightBuilder::table(const std::string& name, const Shape& shape) {
  const ConstView from = source_->tensor(name, shape);
  if (!from) return {};
  const bool can_be_read = from.dtype() == DType::f32 || from.dtype() == DType::bf16;
  if (can_be_read && ctx_.device().kind == DeviceKind::cpu) {
    storage_.source = source_;
    storage_.bytes += from.size_in_bytes();
    return from;
  }
  Tensor made(ctx_.device(), can_be_read ? from.dtype() : DType::f32, shape);
  load(from, made);
  source_->release(name);
  return keep(std::move(made));
}

WeightStorage WeightBuilder::finish() {
  source_->finish();
  ctx_.synchronize("weights");
  return std::move(storage_);
}

}  // namespace nostos
