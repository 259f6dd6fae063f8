// Implements taking numbers out of an adapter file.
#include "adapters/tensor_values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "base/error.h"
#include "tensor/bfloat16.h"
#include "tensor/half.h"

namespace nostos {
namespace {

/// \return element `i` of packed numbers of type T, of any alignment.
template <class T>
T element(std::span<const std::byte> bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

using Convert = float (*)(std::span<const std::byte>, size_t);

struct NumberType {
  std::string_view name;
  size_t bytes;
  Convert convert;
};

constexpr NumberType kTypes[] = {
    {"F32", 4, [](std::span<const std::byte> b, size_t i) { return element<float>(b, i); }},
    {"F64", 8, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<double>(b, i)); }},
    {"F16", 2, [](std::span<const std::byte> b, size_t i) { return half_to_float(element<uint16_t>(b, i)); }},
    {"BF16", 2, [](std::span<const std::byte> b, size_t i) { return to_float(element<bfloat16>(b, i)); }},
    {"F8_E4M3", 1, [](std::span<const std::byte> b, size_t i) { return e4m3_to_float(element<uint8_t>(b, i)); }},
    {"F8_E5M2", 1, [](std::span<const std::byte> b, size_t i) { return e5m2_to_float(element<uint8_t>(b, i)); }},
};
/// Beside those, types of a single number.
constexpr NumberType kIntegers[] = {
    {"I64", 8, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<int64_t>(b, i)); }},
    {"I32", 4, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<int32_t>(b, i)); }},
    {"I16", 2, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<int16_t>(b, i)); }},
    {"I8", 1, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<int8_t>(b, i)); }},
    {"U8", 1, [](std::span<const std::byte> b, size_t i) { return static_cast<float>(element<uint8_t>(b, i)); }},
};

const NumberType* find_type(std::string_view name, bool with_integers) {
  for (const NumberType& type : kTypes)
    if (type.name == name) return &type;
  for (const NumberType& type : kIntegers)
    if (with_integers && type.name == name) return &type;
  return nullptr;
}

const TensorInfo& info_of(const TensorFile& file, const std::string& key) {
  const auto found = file.tensors().find(key);
  check(found != file.tensors().end(), "a key of the file");
  return found->second;
}

/// \return the tensor's type, which its bytes agree with.
const NumberType& type_of(const TensorFile& file, const std::string& key, bool with_integers) {
  const TensorInfo& info = info_of(file, key);
  const NumberType* type = find_type(info.dtype_name, with_integers);
  if (type == nullptr)
    fail(ErrorKind::model, "{} is of no type that adapters are read in: F64, F32, F16, BF16, F8_E4M3 or F8_E5M2",
         describe(file, key));
  const size_t bytes = file.bytes(key).size(), elements = bytes / type->bytes;
  // A reader of files need not know this type, and then has not compared.
  if (elements * type->bytes != bytes || static_cast<uint64_t>(info.elements()) != elements)
    fail(ErrorKind::model, "{} has {} bytes, which its shape does not fit", describe(file, key), bytes);
  return *type;
}

}  // namespace

std::string to_string(const MatrixShape& shape) { return fmt::format("[{}, {}]", shape.rows, shape.columns); }

std::string describe(const TensorFile& file, const std::string& key) {
  return fmt::format("{}: tensor '{}' {}", file.path().string(), key, to_string(info_of(file, key)));
}

MatrixShape matrix_shape(const TensorFile& file, const std::string& key) {
  const std::vector<int64_t>& extents = info_of(file, key).extents;
  bool is_matrix = !extents.empty();
  for (size_t i = 0; i < extents.size(); ++i) is_matrix = is_matrix && (i < 2 ? extents[i] > 0 : extents[i] == 1);
  if (!is_matrix)
    fail(ErrorKind::model, "{} is no matrix: it must be [rows, columns], with elements, and at most extents of 1 after",
         describe(file, key));
  return {extents[0], extents.size() > 1 ? extents[1] : 1};
}

Matrix read_matrix(const TensorFile& file, const std::string& key) {
  const MatrixShape shape = matrix_shape(file, key);
  const NumberType& type = type_of(file, key, false);
  const std::span<const std::byte> bytes = file.bytes(key);
  Matrix matrix{shape.rows, shape.columns, {}};
  matrix.values.resize(static_cast<size_t>(shape.rows) * static_cast<size_t>(shape.columns));
  for (size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] = type.convert(bytes, i);
  // A picture of NaN would not say where they came from.
  const auto wrong = std::ranges::find_if(matrix.values, [](float value) { return !std::isfinite(value); });
  if (wrong != matrix.values.end())
    fail(ErrorKind::model, "{} holds {} at [{}, {}], must be finite", describe(file, key), *wrong,
         (wrong - matrix.values.begin()) / shape.columns, (wrong - matrix.values.begin()) % shape.columns);
  return matrix;
}

double read_number(const TensorFile& file, const std::string& key) {
  if (info_of(file, key).elements() != 1) fail(ErrorKind::model, "{} must be one number", describe(file, key));
  const double value = static_cast<double>(type_of(file, key, true).convert(file.bytes(key), 0));
  if (!std::isfinite(value)) fail(ErrorKind::model, "{} is {}, must be finite", describe(file, key), value);
  return value;
}

}  // namespace nostos
