// Implements conversion, stacking and packing of weights.
#include "models/weight_builder.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "ops/elementwise.h"
#include "ops/int8_linear.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

/// \return the bytes of `matrix` and of its scales in one piece, as copied to a device.
size_t image_bytes(const StoredMatrix& matrix) { return BlockStream::aligned(matrix.size_in_bytes()); }

/// Copies `matrix`, on the host, to `image`, image_bytes() of memory on the device.
void upload(Context& ctx, const StoredMatrix& matrix, std::byte* image) {
  const int64_t bytes = static_cast<int64_t>(matrix.row_bytes());
  const bool is_whole = matrix.row_stride == matrix.row_bytes();
  std::vector<std::byte> packed;
  if (!is_whole) {
    packed.resize(static_cast<size_t>(matrix.rows * bytes));
    for (int64_t row = 0; row < matrix.rows; ++row)
      std::memcpy(packed.data() + row * bytes, matrix.row_range(row, 1).data, static_cast<size_t>(bytes));
  }
  const Shape shape{matrix.rows, bytes};
  upload(ctx, ConstView(is_whole ? matrix.data : packed.data(), DType::u8, shape), View(image, DType::u8, shape));
  const int64_t scales = static_cast<int64_t>(matrix.size_in_bytes()) - matrix.rows * bytes;
  if (scales == 0) return;
  upload(ctx, ConstView(reinterpret_cast<const std::byte*>(matrix.scales), DType::u8, {scales}),
         View(image + matrix.rows * bytes, DType::u8, {scales}));
}

/// \return `matrix` in an image of it on the device.
StoredMatrix in_image(const StoredMatrix& matrix, const std::byte* image) {
  const std::byte* scales = image + static_cast<size_t>(matrix.rows) * matrix.row_bytes();
  return StoredMatrix::whole(matrix.format, matrix.rows, matrix.columns, image,
                             matrix.scales == nullptr ? nullptr : reinterpret_cast<const float*>(scales));
}

}  // namespace

size_t resident_bytes(const WeightSizes& sizes, const WeightPlacement& placement) {
  size_t bytes = sizes.fixed + (placement.table_on_host ? 0 : sizes.table);
  for (size_t i = 0; i < sizes.blocks.size(); ++i)
    if (!placement.streams(i)) bytes += sizes.blocks[i];
  return bytes;
}

void WeightBuilder::begin_block(BlockUse use) {
  check(!in_block_, "blocks are not nested");
  in_block_ = true;
  WeightSizes& sizes = storage_.sizes;
  sizes.blocks.push_back(0);
  sizes.uses.push_back(use);
  if (!placement_.streams(sizes.blocks.size() - 1)) return;
  if (!storage_.stream) storage_.stream = std::make_shared<BlockStream>(ctx_.device(), placement_.slot_bytes);
  streamed_block_ = storage_.stream->add_block();
}

BlockVisit WeightBuilder::end_block() {
  check(in_block_, "a block ends that did not begin");
  in_block_ = false;
  const std::optional<size_t> streamed = std::exchange(streamed_block_, {});
  return streamed ? BlockVisit(storage_.stream, *streamed) : BlockVisit();
}

void WeightBuilder::count(size_t bytes) {
  (in_block_ ? storage_.sizes.blocks.back() : storage_.sizes.fixed) += BlockStream::aligned(bytes);
}

std::byte* WeightBuilder::stage(size_t bytes) {
  if (staging_.size_bytes() < bytes) staging_ = Buffer(ctx_.device(), bytes);
  return staging_.data();
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

void WeightBuilder::reserve(size_t bytes) {
  if (ctx_.device().kind == DeviceKind::cuda) storage_.reserved = Buffer(ctx_.device(), bytes);
}

std::byte* WeightBuilder::take_reserved(size_t bytes) {
  const size_t begin = reserved_used_, end = begin + BlockStream::aligned(bytes);
  if (end > storage_.reserved.size_bytes()) return nullptr;
  reserved_used_ = end;
  return storage_.reserved.data() + begin;
}

WeightBuilder::Made WeightBuilder::make(DType dtype, const Shape& shape) {
  if (std::byte* const place = take_reserved(static_cast<size_t>(shape.elements()) * size_bytes(dtype)))
    return {View(place, dtype, shape)};
  Tensor own(ctx_.device(), dtype, shape);
  const View view = own;
  return {view, std::move(own)};
}

View WeightBuilder::keep(Made made) {
  storage_.bytes += made.view.size_in_bytes();
  if (made.own) storage_.tensors.push_back(std::move(made.own));
  return made.view;
}

std::vector<WeightBuilder::PlacedPart> WeightBuilder::stack(std::span<const MatrixPart> parts) {
  std::vector<PlacedPart> placed;
  int64_t begin = 0;
  for (const MatrixPart& part : parts) {
    placed.push_back({part, {part.name, begin, part.rows, part.rows, part.rows, part.row, part.column}});
    begin += part.rows;
  }
  return placed;
}

std::vector<WeightBuilder::SourcePiece> WeightBuilder::find(std::span<const PlacedPart> parts) {
  std::vector<SourcePiece> pieces;
  for (size_t i = 0; i < parts.size(); ++i) {
    const MatrixPart& part = parts[i].from;
    std::vector<StoredMatrix> stored = source_->matrix(part.name, part.whole);
    // Columns that end inside of a block are cut out of the numbers.
    if (std::ranges::any_of(stored,
                            [&](const StoredMatrix& m) { return !m.can_cut_columns(part.column, part.columns); })) {
      const ConstView all = source_->tensor(part.name, part.whole);
      stored = {StoredMatrix::whole({stored_type(all.dtype())}, part.whole[0], part.whole[1], all.bytes())};
    }
    int64_t top = 0;  // of the piece in the checkpoint's matrix
    for (const StoredMatrix& matrix : stored) {
      const int64_t begin = std::max(part.row, top), end = std::min(part.row + part.rows, top + matrix.rows);
      if (begin < end)
        pieces.push_back(
            {matrix.row_range(begin - top, end - begin).column_range(part.column, part.columns), i, begin - part.row});
      top += matrix.rows;
    }
  }
  return pieces;
}

Linear WeightBuilder::weight(std::span<const PlacedPart> parts, const Shape& shape, DType input, const WeightUse& use) {
  const std::vector<SourcePiece> pieces = find(parts);
  const bool is_plain =
      std::ranges::all_of(pieces, [](const SourcePiece& piece) { return piece.matrix.format.is_plain(); });
  int64_t rows = 0;
  for (const SourcePiece& piece : pieces) rows += piece.matrix ? piece.matrix.rows : 0;
  const bool has_data = rows == shape[0];
  Linear made;
  const bool can_round = may_round(input, use);
  const auto with_shape = [&] {
    if (can_round && ops::takes_int8(shape)) made.watch = products_.watch;
    made.in = shape[1];
    made.out = shape[0];
    made.input = input;
    for (const PlacedPart& part : parts) made.rows.push_back(part.to);
    return made;
  };
  if (can_round && is_rounded(parts, pieces, shape)) {
    count(static_cast<size_t>(shape.elements()) + static_cast<size_t>(shape[0]) * sizeof(float));
    storage_.sizes.scratch = std::max(storage_.sizes.scratch, static_cast<size_t>(ops::kRoundedScratchBytes));
    if (!has_data) return with_shape();
    made = weight_of_int8(parts, pieces, shape, use.interleaved);
  } else if (is_plain) {
    const size_t bytes = static_cast<size_t>(shape.elements()) * size_bytes(input);
    count(bytes);
    if (!has_data) return with_shape();
    made = weight_of_plain(pieces, View(stage(bytes), input, shape), use.interleaved);
  } else {
    std::vector<StoredPiece> placed = place(parts, pieces);
    size_t bytes = 0;
    for (const StoredPiece& piece : placed) bytes += image_bytes(piece.matrix);
    count(bytes);
    // Two weights of a sum, parts of one matrix, take less together than a block's largest.
    storage_.sizes.scratch = std::max(storage_.sizes.scratch, ops::stored_scratch_bytes(shape, input));
    if (!has_data) return with_shape();
    made = weight_as_stored(std::move(placed), shape, input);
  }
  if (is_plain || made.int8 || ctx_.device().kind != DeviceKind::cpu)
    for (const PlacedPart& part : parts) source_->release(part.from.name);
  return with_shape();
}

View WeightBuilder::plain_numbers(const std::vector<SourcePiece>& pieces, View made, bool interleaved) {
  int64_t row = 0;
  for (const SourcePiece& piece : pieces) {
    const StoredMatrix& from = piece.matrix;
    const DType dtype = *plain_dtype(from.format.type);
    const View to = made.rows(row, from.rows);
    row += from.rows;
    if (from.row_stride == from.row_bytes()) {
      load({from.data, dtype, to.shape()}, to);
      continue;
    }
    Tensor cut(Device{}, dtype, to.shape());
    for (int64_t i = 0; i < from.rows; ++i)
      std::memcpy(cut.view().rows(i, 1).bytes(), from.row_range(i, 1).data, from.row_bytes());
    load(cut, to);
  }
  if (interleaved) {
    if (raw_.size_bytes() < made.size_in_bytes()) raw_ = Buffer(ctx_.device(), made.size_in_bytes());
    const View dealt(raw_.data(), made.dtype(), made.shape());
    ops::interleave_gates(ctx_, made, dealt);
    return dealt;
  }
  return made;
}

Linear WeightBuilder::weight_of_plain(const std::vector<SourcePiece>& pieces, View made, bool interleaved) {
  made = plain_numbers(pieces, made, interleaved);
  if (streamed_block_) {
    const std::byte* place = storage_.stream->add(ctx_, made.bytes(), made.size_in_bytes());
    return ops::borrow_linear(ctx_, {place, made.dtype(), made.shape()});
  }
  if (std::byte* const place = take_reserved(made.size_in_bytes())) {
    ctx_.stream().copy(place, made.bytes(), made.size_in_bytes());
    storage_.bytes += made.size_in_bytes();
    return ops::borrow_linear(ctx_, {place, made.dtype(), made.shape()});
  }
  Linear packed = ops::pack_linear(ctx_, made);
  storage_.bytes += packed.size_in_bytes();
  return packed;
}

Linear WeightBuilder::weight_as_stored(std::vector<StoredPiece> pieces, const Shape& shape, DType input) {
  size_t bytes = 0;
  for (const StoredPiece& piece : pieces) bytes += image_bytes(piece.matrix);
  if (ctx_.device().kind == DeviceKind::cpu) {
    storage_.source = source_;
    storage_.bytes += bytes;
    return ops::keep_stored(ctx_, std::move(pieces), shape, input);
  }
  std::byte* image = nullptr;
  if (streamed_block_) {
    image = stage(bytes);
  } else {
    image = keep(make(DType::u8, {static_cast<int64_t>(bytes)})).bytes();
  }
  size_t offset = 0;
  for (const StoredPiece& piece : pieces) {
    upload(ctx_, piece.matrix, image + offset);
    offset += image_bytes(piece.matrix);
  }
  const std::byte* place = streamed_block_ ? storage_.stream->add(ctx_, image, bytes) : image;
  for (StoredPiece& piece : pieces) {
    piece.matrix = in_image(piece.matrix, place);
    place += image_bytes(piece.matrix);
  }
  return ops::keep_stored(ctx_, std::move(pieces), shape, input);
}

bool WeightBuilder::may_round(DType input, const WeightUse& use) const {
  return (products_.round || products_.watch) && in_block_ && storage_.sizes.uses.back() == products_.use &&
         input == dtype_ && use.may_round;
}

bool WeightBuilder::is_rounded(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces,
                               const Shape& shape) {
  const auto is_kept = [&](const PlacedPart& part) { return products_.kept.contains(part.from.name); };
  if (!products_.round || std::ranges::any_of(parts, is_kept)) return false;
  if (products_.only_stored && (pieces.empty() || !are_int8(pieces))) return false;
  const bool fits = ops::takes_int8(shape);
  if (!fits) ++storage_.unrounded;
  return fits;
}

Linear WeightBuilder::weight_of_int8(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces,
                                     const Shape& shape, bool interleaved) {
  const size_t number_bytes = static_cast<size_t>(shape.elements());
  const size_t bytes = BlockStream::aligned(number_bytes + static_cast<size_t>(shape[0]) * sizeof(float));
  std::byte* image = nullptr;
  if (streamed_block_) {
    if (rounded_.size_bytes() < bytes) rounded_ = Buffer(ctx_.device(), bytes);
    image = rounded_.data();
  } else {
    image = keep(make(DType::u8, {static_cast<int64_t>(bytes)})).bytes();
  }
  int64_t rotation = ops::int8_rotation(shape[1]);
  if (are_int8(pieces)) {
    rotation = pieces.front().matrix.format.rotation;
    deal_int8(parts, pieces, View(image, DType::u8, {static_cast<int64_t>(bytes)}), shape[1]);
  } else {
    const auto is_plain = [](const SourcePiece& piece) { return piece.matrix.format.is_plain(); };
    if (!std::ranges::all_of(pieces, is_plain)) ++storage_.requantised;
    const View numbers(image, DType::i8, shape), scales(image + number_bytes, DType::f32, {shape[0]});
    ops::quantise_rows(ctx_, all_numbers(parts, pieces, shape, interleaved), rotation, numbers, scales);
  }
  const std::byte* place = streamed_block_ ? storage_.stream->add(ctx_, image, bytes) : image;
  Linear made;
  made.int8 = {rotation, ConstView(place, DType::i8, shape), ConstView(place + number_bytes, DType::f32, {shape[0]})};
  return made;
}

bool WeightBuilder::are_int8(const std::vector<SourcePiece>& pieces) {
  const int64_t rotation = pieces.front().matrix.format.rotation;
  return (rotation == 0 || rotation == ops::kNarrowRotation || rotation == ops::kWideRotation) &&
         std::ranges::all_of(pieces, [&](const SourcePiece& piece) {
           const WeightFormat& format = piece.matrix.format;
           return format.type == StoredType::i8 && format.rotation == rotation;
         });
}

void WeightBuilder::deal_int8(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces, View image,
                              int64_t in) {
  std::vector<std::byte> dealt(image.size_in_bytes());
  const int64_t out = std::accumulate(pieces.begin(), pieces.end(), int64_t{0},
                                      [](int64_t sum, const SourcePiece& piece) { return sum + piece.matrix.rows; });
  for (const SourcePiece& piece : pieces) {
    const StoredMatrix& from = piece.matrix;
    for (int64_t i = 0; i < from.rows; ++i) {
      const int64_t row = parts[piece.part].to.row(piece.row + i);
      const float scale = from.scales == nullptr                         ? 1.f
                          : from.format.scales == WeightScales::each_row ? from.scales[i]
                                                                         : from.scales[0];
      std::memcpy(dealt.data() + row * in, from.row_range(i, 1).data, static_cast<size_t>(in));
      std::memcpy(dealt.data() + out * in + row * int64_t{sizeof scale}, &scale, sizeof scale);
    }
  }
  upload(ctx_, ConstView(dealt.data(), DType::u8, image.shape()), image);
}

View WeightBuilder::all_numbers(std::span<const PlacedPart> parts, const std::vector<SourcePiece>& pieces,
                                const Shape& shape, bool interleaved) {
  const auto is = [&](const auto& holds) {
    return std::ranges::all_of(pieces, [&](const SourcePiece& piece) { return holds(piece.matrix.format); });
  };
  const bool are_bf16 = is([](const WeightFormat& f) { return f.is_plain() && f.type == StoredType::bf16; });
  const DType dtype = are_bf16 ? DType::bf16 : DType::f32;
  const View all(stage(static_cast<size_t>(shape.elements()) * size_bytes(dtype)), dtype, shape);
  if (is([](const WeightFormat& f) { return f.is_plain(); })) return plain_numbers(pieces, all, interleaved);
  std::vector<StoredPiece> placed = place(parts, pieces);
  size_t bytes = 0;
  for (const StoredPiece& piece : placed) bytes += image_bytes(piece.matrix);
  if (ctx_.device().kind != DeviceKind::cpu) {
    if (raw_.size_bytes() < bytes) raw_ = Buffer(ctx_.device(), bytes);
    std::byte* image = raw_.data();
    for (StoredPiece& piece : placed) {
      upload(ctx_, piece.matrix, image);
      piece.matrix = in_image(piece.matrix, image);
      image += image_bytes(piece.matrix);
    }
  }
  ops::dequantise(ctx_, placed, all);
  return all;
}

std::vector<StoredPiece> WeightBuilder::place(std::span<const PlacedPart> parts,
                                              const std::vector<SourcePiece>& pieces) {
  std::vector<StoredPiece> placed;
  for (const SourcePiece& piece : pieces) {
    const NamedRows& to = parts[piece.part].to;
    const bool in_one = to.run == to.count;
    check(in_one || piece.row % to.run == 0, "rows that are dealt out come in whole runs");
    placed.push_back(
        {piece.matrix, to.row(piece.row), in_one ? piece.matrix.rows : to.run, in_one ? piece.matrix.rows : to.stride});
  }
  return placed;
}

ConstView WeightBuilder::small(const std::string& name, const Shape& shape) {
  Made made = make(DType::f32, shape);
  storage_.sizes.fixed += BlockStream::aligned(made.view.size_in_bytes());
  const bool is_there = fetch(name, shape, made.view);
  storage_.vectors.emplace(name, is_there ? made.view : View());
  return is_there ? keep(std::move(made)) : ConstView();
}

Linear WeightBuilder::stacked(std::initializer_list<std::string> names, std::initializer_list<int64_t> outs,
                              int64_t in) {
  std::vector<MatrixPart> parts;
  int64_t all = 0;
  auto out = outs.begin();
  for (const std::string& name : names) {
    parts.push_back(MatrixPart::all(name, *out, in));
    all += *out++;
  }
  return weight(stack(parts), {all, in}, dtype_, {});
}

Linear WeightBuilder::part(const MatrixPart& part) {
  return weight(stack(std::array{part}), {part.rows, part.columns}, dtype_, {});
}

Linear WeightBuilder::summand(const MatrixPart& part) {
  return weight(stack(std::array{part}), {part.rows, part.columns}, dtype_, {.may_round = false});
}

GatedLinear WeightBuilder::gated(const MatrixPart& gate, const MatrixPart& up, const GatedShape& shape) {
  std::vector<PlacedPart> parts = stack(std::array{gate, up});
  const Shape both{2 * shape.ffn, shape.in};
  if (!ops::fuses_gated_linear(ctx_.device(), dtype_, shape)) return {weight(parts, both, dtype_, {}), false};
  std::vector<NamedRows> rows = ops::interleaved_rows(ctx_.device(), gate.name, up.name, shape.ffn);
  for (size_t i = 0; i < parts.size(); ++i) {
    rows[i].from_row = parts[i].from.row;
    parts[i].to = rows[i];
  }
  return {weight(parts, both, dtype_, {.interleaved = true}), true};
}

Linear WeightBuilder::linear(const std::string& name, int64_t out, int64_t in, bool bias, DType dtype) {
  Linear made =
      weight(stack(std::array{MatrixPart::all(name + ".weight", out, in)}), {out, in}, dtype, {.may_round = !bias});
  if (bias) made.bias = small(name + ".bias", {out});
  return made;
}

Linear WeightBuilder::stacked_with_bias(std::initializer_list<std::string> names, int64_t out, int64_t in) {
  const int64_t count = static_cast<int64_t>(names.size());
  std::vector<MatrixPart> parts;
  for (const std::string& name : names) parts.push_back(MatrixPart::all(name + ".weight", out, in));
  Linear made = weight(stack(parts), {count * out, in}, dtype_, {.may_round = false});
  Made bias = make(DType::f32, {count * out});
  bool complete = true;
  int64_t row = 0;
  for (const std::string& name : names) {
    complete = fetch(name + ".bias", {out}, bias.view.rows(row, out)) && complete;
    row += out;
  }
  if (complete) made.bias = keep(std::move(bias));
  return made;
}

Conv2d WeightBuilder::conv(const std::string& name, int64_t out, int64_t in, int64_t kernel) {
  return packed_conv(name, {out, in, kernel, kernel}, ops::pack_conv2d);
}

Conv2d WeightBuilder::upsampling_conv(const std::string& name, int64_t out, int64_t in) {
  return packed_conv(name, {out, in, 3, 3}, ops::pack_upsampling_conv2d);
}

Conv2d WeightBuilder::packed_conv(const std::string& name, const Shape& shape,
                                  Conv2d (*pack)(Context&, ConstView, ConstView)) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * size_bytes(dtype_);
  count(bytes);
  const View made(stage(bytes), dtype_, shape);
  const bool complete = fetch(name + ".weight", shape, made);
  const ConstView bias = small(name + ".bias", {shape[0]});
  if (!complete || !bias) return {};
  Conv2d packed = pack(ctx_, made, bias);
  storage_.bytes += packed.size_in_bytes();
  return packed;
}

StoredMatrix WeightBuilder::table(const std::string& name, const Shape& shape) {
  storage_.tables.insert(name);
  const std::vector<StoredMatrix> pieces = source_->matrix(name, shape);
  if (pieces.empty()) return {};
  check(pieces.size() == 1, "a table stands in one piece");
  const StoredMatrix& from = pieces.front();
  storage_.sizes.table = image_bytes(from);
  if (!from) return {};
  if (ctx_.device().kind == DeviceKind::cpu) {
    storage_.source = source_;
    storage_.bytes += from.size_in_bytes();
    return from;
  }
  std::byte* image = nullptr;
  if (placement_.table_on_host) {
    storage_.table = PinnedBuffer(ctx_.device(), image_bytes(from));
    image = storage_.table.data();
  } else {
    image = keep(make(DType::u8, {static_cast<int64_t>(image_bytes(from))})).bytes();
  }
  upload(ctx_, from, image);
  const StoredMatrix table = in_image(from, image);
  source_->release(name);
  return table;
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
