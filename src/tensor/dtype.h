// Owns the element types of tensors: their sizes, and their names in safetensors files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace nostos {

enum class DType { f32, f64, f16, bf16, i64, i32, i16, i8, u8, boolean };

/// \return bytes an element takes.
size_t size_bytes(DType dtype);

/// \return the safetensors name, e.g. "BF16".
std::string_view name(DType dtype);

/// \return the type with this safetensors name, nothing if it is none that nostos knows.
std::optional<DType> parse_dtype(std::string_view safetensors_name);

}  // namespace nostos
