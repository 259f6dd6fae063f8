// Implements planning and writing the tensors of a file.
#include "checkpoints/output_tensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "io/safetensors.h"
#include "ops/elementwise.h"
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

/// Turns numbers into the bytes of a dtype.
class Rounding {
 public:
  /// \return the bytes, valid until the next call. \param beyond is added to
  std::span<const std::byte> operator()(ConstView numbers, DType dtype, int64_t& beyond) {
    if (numbers.dtype() == dtype) return {numbers.bytes(), numbers.size_in_bytes()};
    const int64_t count = numbers.shape().elements();
    bytes_.resize(static_cast<size_t>(count) * size_bytes(dtype));
    if (dtype == DType::f16) {
      to_halves(numbers, beyond);
    } else {
      ops::convert(ctx_, numbers.reshape({count}), View(bytes_.data(), dtype, {count}));
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
  for (const TensorSlot& slot : writer.order()) {
    const OutputTensor& tensor = *by_name.at(slot.name);
    const int64_t beyond = written.beyond;
    for (const OutputPiece& piece : tensor.pieces) {
      require(progress.cancel == nullptr || !*progress.cancel, ErrorKind::cancelled, "interrupted");
      writer.write(rounding(rows_of(tensor.part->read(piece.tensor), piece), tensor.dtype, written.beyond));
    }
    if (beyond == 0 && written.beyond > 0) written.first_beyond = tensor.name;
    written.numbers += tensor.shape.elements();
    ++written.tensors;
    if (progress.on_tensor) progress.on_tensor(written.tensors);
  }
  require(written.beyond == 0, ErrorKind::invalid_input,
          "{} numbers are beyond the 65504 that f16 holds, the first of them in '{}': use --dtype bf16 or f32",
          written.beyond, written.first_beyond);
  writer.commit();
}

}  // namespace nostos
