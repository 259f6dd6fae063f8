// Owns which tensors a written file has, what each is made of, and the writing of them one after the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "checkpoints/part_source.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace nostos {

/// One of several equal parts of a tensor of a part, along its first axis.
struct OutputPiece {
  std::string tensor;  ///< in the diffusers layout
  int64_t slice = 0, slices = 1;
};

/// What of its pieces' numbers a written tensor holds.
enum class OutputKind {
  numbers,      ///< all of them
  int8,         ///< all, rotated and rounded to 8 bits, see ops::quantise_rows()
  int8_scales,  ///< the scales of their rows then
  text,         ///< nothing: bytes that say how another tensor is stored
};

/// A tensor that is written: pieces one below the other.
struct OutputTensor {
  std::string name;
  Shape shape;
  DType dtype;
  PartSource* part;
  std::vector<OutputPiece> pieces;
  OutputKind kind = OutputKind::numbers;
  std::string text{};  ///< of that kind, which has no pieces
};

/// \return the tensors of a part in a diffusers folder.
std::vector<OutputTensor> folder_tensors(PartSource& part, DType dtype);

/// \return the tensors of a part in a single file, fused as the model's own programs and ComfyUI read them.
/// \param is_one_of_several whether the file has other parts, too
/// \throws Error model if the part lacks some rows of a fused tensor
std::vector<OutputTensor> single_file_tensors(PartSource& part, DType dtype, bool is_one_of_several);

/// Has tensors of a single file rounded to 8 bits, as ComfyUI's format int8_tensorwise with ConvRot has them: those
/// that are made of `matrices` alone. Beside each then stand its scales and a marker.
/// \param matrices in the diffusers layout, of ops::takes_int8()
void round_tensors(std::vector<OutputTensor>& tensors, const std::set<std::string>& matrices);

/// What the writing of tensors tells and asks.
struct WriteProgress {
  std::function<void(int64_t done)> on_tensor;  ///< called when another tensor is written; may be empty
  const std::atomic<bool>* cancel = nullptr;    ///< stops the work once it is true
};

/// What was written.
struct WrittenTensors {
  int64_t tensors = 0;
  int64_t numbers = 0;
  int64_t beyond = 0;          ///< finite numbers that are infinite in the dtype
  std::string first_beyond{};  ///< the first tensor with such
};

/// Writes a safetensors file tensor by tensor; memory holds little more than the largest. Numbers are rounded to the
/// nearest, ties to even. `written` is added to.
/// \throws Error model naming a tensor with numbers that are not finite, cancelled, internal on a full disk,
/// invalid_input if the dtype does not hold all numbers; the file then is as it was
void write_tensors(const std::filesystem::path& file, const std::vector<OutputTensor>& tensors,
                   const std::map<std::string, std::string>& metadata, const WriteProgress& progress,
                   WrittenTensors& written);

}  // namespace nostos
