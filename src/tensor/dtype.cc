// Implements element types.
#include "tensor/dtype.h"

#include <array>

namespace nostos {
namespace {

struct Row {
  DType dtype;
  size_t bytes;
  std::string_view name;
};
constexpr std::array<Row, 10> kTable{{{DType::f32, 4, "F32"},
                                      {DType::f64, 8, "F64"},
                                      {DType::f16, 2, "F16"},
                                      {DType::bf16, 2, "BF16"},
                                      {DType::i64, 8, "I64"},
                                      {DType::i32, 4, "I32"},
                                      {DType::i16, 2, "I16"},
                                      {DType::i8, 1, "I8"},
                                      {DType::u8, 1, "U8"},
                                      {DType::boolean, 1, "BOOL"}}};

}  // namespace

size_t size_bytes(DType dtype) { return kTable[static_cast<size_t>(dtype)].bytes; }

std::string_view name(DType dtype) { return kTable[static_cast<size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view safetensors_name) {
  for (const Row& row : kTable) {
    if (row.name == safetensors_name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace nostos
