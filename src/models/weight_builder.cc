// Implements conversion, stacking and packing of weights.
#include "models/weight_builder.h"

#include <cstring>
#include <utility>

#include "base/error.h"
#include "ops/elementwise.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// \return rows that lie in one piece.
NamedRows piece(const std::string& name, int64_t begin, int64_t count) { return {name, begin, count, count, count}; }
NamedRows piece(const MatrixPart& part, int64_t begin) {
  return {part.name, begin, part.rows, part.rows, part.rows, part.row, part.column};
}

}  // namespace

void WeightBuilder::begin_block(BlockUse use) {
  check(!in_block_, "blocks are not nested");
  in_block_ = true;
  WeightSizes& sizes = storage_.sizes;
  sizes.blocks.push_back(0);
  sizes.uses.push_back(use);
  if (placement_.streamed.empty() || !placement_.streamed.at(sizes.blocks.size() - 1)) return;
  if (!storage_.stream) storage_.stream = std::make_shared<BlockStream>(ctx_.device(), placement_.slot_bytes);
  streamed_block_ = storage_.stream->add_block();
}

BlockVisit WeightBuilder::end_block() {
  check(in_block_, "a block ends that did not begin");
  in_block_ = false;
  const std::optional<size_t> streamed = std::exchange(streamed_block_, {});
  return streamed ? BlockVisit(storage_.stream, *streamed) : BlockVisit();
}

View WeightBuilder::stage(DType dtype, const Shape& shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * size_bytes(dtype);
  if (in_block_)
    storage_.sizes.blocks.back() += BlockStream::aligned(bytes);
  else
    storage_.sizes.fixed += bytes;
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

bool WeightBuilder::fetch(const MatrixPart& part, View to) {
  const ConstView from = source_->tensor(part.name, part.whole);
  if (!from) return false;
  const ConstView rows = from.rows(part.row, part.rows);
  if (part.columns == part.whole[1]) {
    load(rows, to);
  } else {
    Tensor cut(Device{}, from.dtype(), {part.rows, part.columns});
    const size_t item = size_bytes(from.dtype()), stride = static_cast<size_t>(part.whole[1]) * item;
    const size_t begin = static_cast<size_t>(part.column) * item, bytes = static_cast<size_t>(part.columns) * item;
    for (size_t row = 0; row < static_cast<size_t>(part.rows); ++row)
      std::memcpy(cut.view().bytes() + row * bytes, rows.bytes() + row * stride + begin, bytes);
    load(cut, to);
  }
  source_->release(part.name);
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

Linear WeightBuilder::pack(ConstView weight, std::vector<NamedRows> rows) {
  Linear packed;
  if (streamed_block_) {
    const std::byte* place = storage_.stream->add(ctx_, weight.bytes(), weight.size_in_bytes());
    packed = ops::borrow_linear(ctx_, {place, weight.dtype(), weight.shape()});
  } else {
    packed = ops::pack_linear(ctx_, weight);
    storage_.bytes += packed.size_in_bytes();
  }
  packed.rows = std::move(rows);
  return packed;
}

ConstView WeightBuilder::small(const std::string& name, const Shape& shape) {
  Tensor made(ctx_.device(), DType::f32, shape);
  storage_.sizes.fixed += made.size_in_bytes();
  if (!fetch(name, shape, made)) return {};
  return keep(std::move(made));
}

Linear WeightBuilder::stacked(std::initializer_list<std::string> names, std::initializer_list<int64_t> outs,
                              int64_t in) {
  int64_t all = 0;
  for (int64_t out : outs) all += out;
  const View made = stage(dtype_, {all, in});
  bool complete = true;
  std::vector<NamedRows> rows;
  int64_t row = 0;
  auto out = outs.begin();
  for (const std::string& name : names) {
    complete = fetch(name, {*out, in}, made.rows(row, *out)) && complete;
    rows.push_back(piece(name, row, *out));
    row += *out++;
  }
  return complete ? pack(made, std::move(rows)) : Linear{};
}

Linear WeightBuilder::part(const MatrixPart& part) {
  const View made = stage(dtype_, {part.rows, part.columns});
  return fetch(part, made) ? pack(made, {piece(part, 0)}) : Linear{};
}

GatedLinear WeightBuilder::gated(const MatrixPart& gate, const MatrixPart& up, const GatedShape& shape) {
  const int64_t in = shape.in, ffn = shape.ffn;
  const View made = stage(dtype_, {2 * ffn, in});
  const bool has_gate = fetch(gate, made.rows(0, ffn)), has_up = fetch(up, made.rows(ffn, ffn));
  if (!has_gate || !has_up) return {};
  if (!ops::fuses_gated_linear(ctx_.device(), dtype_, shape))
    return {pack(made, {piece(gate, 0), piece(up, ffn)}), false};
  if (raw_.size_bytes() < made.size_in_bytes()) raw_ = Buffer(ctx_.device(), made.size_in_bytes());
  const View interleaved(raw_.data(), dtype_, made.shape());
  ops::interleave_gates(ctx_, made, interleaved);
  std::vector<NamedRows> rows = ops::interleaved_rows(ctx_.device(), gate.name, up.name, ffn);
  rows[0].from_row = gate.row;
  rows[1].from_row = up.row;
  return {pack(interleaved, std::move(rows)), true};
}

Linear WeightBuilder::linear(const std::string& name, int64_t out, int64_t in, bool bias, DType dtype) {
  const View made = stage(dtype, {out, in});
  const bool complete = fetch(name + ".weight", {out, in}, made);
  const ConstView bias_view = bias ? small(name + ".bias", {out}) : ConstView{};
  if (!complete) return {};
  Linear packed = pack(made, {piece(name + ".weight", 0, out)});
  packed.bias = bias_view;
  return packed;
}

Linear WeightBuilder::stacked_with_bias(std::initializer_list<std::string> names, int64_t out, int64_t in) {
  const int64_t count = static_cast<int64_t>(names.size());
  const View weight = stage(dtype_, {count * out, in});
  Tensor bias(ctx_.device(), DType::f32, {count * out});
  bool complete = true;
  std::vector<NamedRows> rows;
  int64_t row = 0;
  for (const std::string& name : names) {
    rows.push_back(piece(name + ".weight", row, out));
    complete = fetch(name + ".weight", {out, in}, weight.rows(row, out)) && complete;
    complete = fetch(name + ".bias", {out}, bias.view().rows(row, out)) && complete;
    row += out;
  }
  if (!complete) return {};
  Linear packed = pack(weight, std::move(rows));
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
  const bool can_be_read = from.dtype() == DType::f32 || from.dtype() == DType::bf16;
  const DType kept = can_be_read ? from.dtype() : DType::f32;
  storage_.sizes.table = static_cast<size_t>(shape.elements()) * size_bytes(kept);
  if (!from) return {};
  if (can_be_read && ctx_.device().kind == DeviceKind::cpu) {
    storage_.source = source_;
    storage_.bytes += from.size_in_bytes();
    return from;
  }
  Tensor made(ctx_.device(), kept, shape);
  load(from, made);
  source_->release(name);
  if (!placement_.table_on_host) return keep(std::move(made));
  storage_.table = PinnedBuffer(ctx_.device(), made.size_in_bytes());
  ctx_.stream().copy(storage_.table.data(), made.view().bytes(), made.size_in_bytes());
  return {storage_.table.data(), kept, shape};
}

WeightStorage WeightBuilder::finish() {
  source_->finish();
  ctx_.synchronize("weights");
  storage_.host_bytes = storage_.table.size_bytes();
  if (storage_.stream) {
    storage_.bytes += storage_.stream->device_bytes();
    storage_.host_bytes += storage_.stream->host_bytes();
  }
  return std::move(storage_);
}

}  // namespace nostos
