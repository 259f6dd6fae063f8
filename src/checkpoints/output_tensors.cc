// Implements planning and writing the tensors of a file.
#include "checkpoints/output_tensors.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "base/error.h"
#include "io/safetensors.h"
#include "ops/elementwise.h"
#include "ops/int8_linear.h"
#include "tensor/half.h"

namespace nostos {
namespace {

/// \return the shape with another first extent.
Shape with_rows(const Shape& shape, int64_t rows) {
  if (shape.rank() == 0) return shape;
  Shape other{rows};
  for (int axis = 1; axis < shape.rank(); ++axis) other.push_back(shape[axis]);
  return other;
}

/// \return how many of `count` numbers have all bits of the exponent, as NaN and infinities have.
template <class Bits>
int64_t count_not_finite(ConstView numbers, Bits exponent) {
  const int64_t count = numbers.shape().elements();
  int64_t found = 0;
#pragma omp parallel for reduction(+ : found)
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;  // of any alignment
    std::memcpy(&bits, numbers.bytes() + static_cast<size_t>(i) * sizeof(Bits), sizeof(Bits));
    found += (bits & exponent) == exponent ? 1 : 0;
  }
  return found;
}

/// \return how many of the numbers are NaN or infinite.
int64_t not_finite(ConstView numbers) {
  if (numbers.dtype() == DType::f32) return count_not_finite<uint32_t>(numbers, 0x7f800000u);
  if (numbers.dtype() == DType::bf16) return count_not_finite<uint16_t>(numbers, 0x7f80u);
  if (numbers.dtype() == DType::f16) return count_not_finite<uint16_t>(numbers, 0x7c00u);
  return 0;
}

/// Turns numbers into the bytes of a dtype.
class Rounding {
 public:
  /// \param numbers that are finite \param beyond those that are not in the dtype are added to it
  /// \return the bytes, valid until the next call.
  std::span<const std::byte> operator()(ConstView numbers, DType dtype, int64_t& beyond) {
    if (numbers.dtype() == dtype) return {numbers.bytes(), numbers.size_in_bytes()};
    const int64_t count = numbers.shape().elements();
    bytes_.resize(static_cast<size_t>(count) * size_bytes(dtype));
    if (dtype == DType::f16) {
      to_halves(numbers, beyond);
    } else {
      ops::convert(ctx_, numbers.reshape({count}), View(bytes_.data(), dtype, {count}));
      beyond += not_finite(ConstView(bytes_.data(), dtype, {count}));
    }
    return bytes_;
  }

 private:
  void to_halves(ConstView numbers, int64_t& beyond) {
    const int64_t count = numbers.shape().elements();
    if (numbers.dtype() != DType::f32) {
      floats_.resize(static_cast<size_t>(count));
      ops::convert(ctx_, numbers.reshape({count}),
                   View(reinterpret_cast<std::byte*>(floats_.data()), DType::f32, {count}));
    }
    const float* from =
        numbers.dtype() == DType::f32 ? reinterpret_cast<const float*>(numbers.bytes()) : floats_.data();
    auto* const to = reinterpret_cast<uint16_t*>(bytes_.data());
    int64_t found = 0;
#pragma omp parallel for reduction(+ : found)
    for (int64_t i = 0; i < count; ++i) {
      found += is_beyond_half(from[i]) ? 1 : 0;
      to[i] = to_half(from[i]);
    }
    beyond += found;
  }

  Context ctx_;
  std::vector<std::byte> bytes_;
  std::vector<float> floats_;
};

/// Rounds rows to 8 bits.
class RowRounding {
 public:
  /// \param numbers f32, bf16 or f16 [rows, in] that are finite
  /// \return what `kind` wants of them, valid until the next call.
  std::span<const std::byte> operator()(ConstView numbers, OutputKind kind) {
    const Shape& shape = numbers.shape();
    Tensor wide;
    if (numbers.dtype() == DType::f16) {
      wide = Tensor(Device{}, DType::f32, shape);
      ops::convert(ctx_, numbers, wide);
      numbers = std::as_const(wide).view();
    }
    rounded_ = Tensor(Device{}, DType::i8, shape);
    scales_ = Tensor(Device{}, DType::f32, {shape[0]});
    ops::quantise_rows(ctx_, numbers, ops::int8_rotation(shape[1]), rounded_, scales_);
    const ConstView made = std::as_const(kind == OutputKind::int8 ? rounded_ : scales_).view();
    return {made.bytes(), made.size_in_bytes()};
  }

 private:
  Context ctx_;
  Tensor rounded_, scales_;
};

/// \throws Error model if some of the numbers, which the piece of a tensor has, are not finite
void require_finite(ConstView numbers, const OutputTensor& tensor, const OutputPiece& piece) {
  const int64_t wrong = not_finite(numbers);
  const std::string of = piece.tensor == tensor.name ? "" : fmt::format(", made of {},", piece.tensor);
  require(wrong == 0, ErrorKind::model, "{}: tensor '{}'{} would have {} numbers that are NaN or infinite",
          tensor.part->files().path().string(), tensor.name, of, wrong);
}

/// \return the rows of a tensor that a piece is.
ConstView rows_of(ConstView tensor, const OutputPiece& piece) {
  if (piece.slices == 1) return tensor;
  const int64_t rows = tensor.shape()[0] / piece.slices;
  return tensor.rows(piece.slice * rows, rows);
}

}  // namespace

std::vector<OutputTensor> folder_tensors(PartSource& part, DType dtype) {
  std::vector<OutputTensor> tensors;
  for (const auto& [name, shape] : part.shapes()) {
    const std::string written = part.type().folder_name(part.config().json, name);
    if (!written.empty()) tensors.push_back({written, shape, part.dtype(name, dtype), &part, {{name}}});
  }
  return tensors;
}

std::vector<OutputTensor> single_file_tensors(PartSource& part, DType dtype, bool is_one_of_several) {
  const PartType& type = part.type();
  const JsonConfig& config = part.config().json;
  const CheckpointLayout& layout = type.own_layout(config);
  const std::string prefix =
      std::string(is_one_of_several ? type.all_in_one_prefix(config) : "").append(type.own_prefix);
  std::map<std::string, OutputTensor> tensors;
  std::map<std::string, std::map<int64_t, OutputPiece>> pieces;  // of each, by their places
  for (const auto& [name, shape] : part.shapes()) {
    if (std::ranges::find(layout.leftovers, name) != layout.leftovers.end()) continue;
    const std::vector<TensorRows> rows = layout.find(name);
    const auto slices = static_cast<int64_t>(rows.size());
    for (int64_t slice = 0; slice < slices; ++slice) {
      const TensorRows& place = rows[static_cast<size_t>(slice)];
      const int64_t height = shape.rank() == 0 ? 1 : shape[0] / slices * place.parts;
      const Shape whole = type.own_shape(place.name, with_rows(shape, height));
      tensors.try_emplace(place.name, OutputTensor{prefix + place.name, whole, part.dtype(name, dtype), &part, {}});
      pieces[place.name][place.part] = {name, slice, slices};
      check(place.part < place.parts, "a piece has its place");
    }
  }
  std::vector<OutputTensor> list;
  for (auto& [name, tensor] : tensors) {
    int64_t rows = 0;
    for (const auto& [place, piece] : pieces[name]) {
      const Shape& shape = part.shapes().at(piece.tensor);
      rows += (shape.rank() == 0 ? 1 : shape[0]) / piece.slices;
      tensor.pieces.push_back(piece);
    }
    require(tensor.shape.rank() == 0 || rows == tensor.shape[0], ErrorKind::model,
            "{}: lacks some of what '{}' is made of in a single file", part.files().path().string(), name);
    list.push_back(std::move(tensor));
  }
  return list;
}

void round_tensors(std::vector<OutputTensor>& tensors, const std::set<std::string>& matrices) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<OutputTensor> beside;
  for (OutputTensor& tensor : tensors) {
    const auto is_rounded = [&](const OutputPiece& piece) { return matrices.contains(piece.tensor); };
    if (tensor.pieces.empty() || !std::ranges::all_of(tensor.pieces, is_rounded)) continue;
    check(tensor.name.ends_with(kWeight) && ops::takes_int8(tensor.shape), "what is rounded is a weight that may be");
    OutputTensor scales = tensor, marker = tensor;
    scales.name += "_scale";
    scales.shape = {tensor.shape[0], 1};
    scales.dtype = DType::f32;
    scales.kind = OutputKind::int8_scales;
    marker.name.resize(marker.name.size() - kWeight.size());
    marker.name += ".comfy_quant";
    marker.text = fmt::format(R"({{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": {}}})",
                              ops::int8_rotation(tensor.shape[1]));
    marker.shape = {std::ssize(marker.text)};
    marker.dtype = DType::u8;
    marker.kind = OutputKind::text;
    marker.pieces.clear();
    tensor.dtype = DType::i8;
    tensor.kind = OutputKind::int8;
    beside.push_back(std::move(scales));
    beside.push_back(std::move(marker));
  }
  std::ranges::move(beside, std::back_inserter(tensors));
}

void write_tensors(const std::filesystem::path& file, const std::vector<OutputTensor>& tensors,
                   const std::map<std::string, std::string>& metadata, const WriteProgress& progress,
                   WrittenTensors& written) {
  std::vector<TensorSlot> slots;
  std::map<std::string_view, const OutputTensor*> by_name;
  for (const OutputTensor& tensor : tensors) {
    slots.push_back({tensor.name, tensor.dtype, tensor.shape});
    by_name.emplace(tensor.name, &tensor);
  }
  SafetensorsWriter writer(file, std::move(slots), metadata);
  Rounding rounding;
  RowRounding row_rounding;
  for (const TensorSlot& slot : writer.order()) {
    const OutputTensor& tensor = *by_name.at(slot.name);
    const int64_t beyond = written.beyond;
    if (!tensor.text.empty()) writer.write(std::as_bytes(std::span(tensor.text)));
    for (const OutputPiece& piece : tensor.pieces) {
      require(progress.cancel == nullptr || !*progress.cancel, ErrorKind::cancelled, "interrupted");
      const ConstView numbers = rows_of(tensor.part->read(piece.tensor), piece);
      require_finite(numbers, tensor, piece);
      writer.write(tensor.kind == OutputKind::numbers ? rounding(numbers, tensor.dtype, written.beyond)
                                                      : row_rounding(numbers, tensor.kind));
    }
    if (beyond == 0 && written.beyond > 0) written.first_beyond = tensor.name;
    written.numbers += tensor.shape.elements();
    ++written.tensors;
    if (progress.on_tensor) progress.on_tensor(written.tensors);
  }
  const bool are_halves = std::ranges::any_of(tensors, [](const auto& each) { return each.dtype == DType::f16; });
  require(written.beyond == 0, ErrorKind::invalid_input,
          "{} numbers are beyond the {}, the first of them in '{}': use --dtype {}", written.beyond,
          are_halves ? "65504 that f16 holds" : "3.39e38 that bf16 holds", written.first_beyond,
          are_halves ? "bf16 or f32" : "f32");
  writer.commit();
}

}  // namespace nostos
