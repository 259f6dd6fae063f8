// Owns how a weight's numbers are stored, apart from the type of what they are multiplied with: plain numbers, 8-bit
// numbers with scales, and the blocks of GGUF files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace nostos {

/// How numbers are written. Numbers of a GGUF block lie side by side in a row, and share what the block says of them.
/// Sources: OCP 8-bit Floating Point Specification (f8); ggml-common.h of ggml (q and iq).
enum class StoredType {
  f32,
  f16,
  bf16,
  f8_e4m3,  ///< the kind without infinities, "fn"
  f8_e5m2,
  i8,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
};

inline constexpr std::array kAllStoredTypes{
    StoredType::f32,  StoredType::f16,  StoredType::bf16, StoredType::f8_e4m3, StoredType::f8_e5m2, StoredType::i8,
    StoredType::q4_0, StoredType::q4_1, StoredType::q5_0, StoredType::q5_1,    StoredType::q8_0,    StoredType::q2_k,
    StoredType::q3_k, StoredType::q4_k, StoredType::q5_k, StoredType::q6_k,    StoredType::iq4_nl,  StoredType::iq4_xs};

/// \return numbers in a block; 1 for a type without blocks.
int64_t block_elements(StoredType type);
/// \return bytes of a block.
size_t block_bytes(StoredType type);
/// \return as files write it, e.g. "BF16", "F8_E4M3" or "Q4_K".
std::string_view name(StoredType type);
/// \return the type that safetensors or GGUF files call `name`, nothing if nostos knows none.
std::optional<StoredType> parse_stored_type(std::string_view name);
/// \return the type of tensors that are stored like this, nothing for a type that no tensor has.
std::optional<DType> plain_dtype(StoredType type);
/// \return how tensors of `dtype`, f32, f16 or bf16, are stored.
StoredType stored_type(DType dtype);

/// Which float32 factors stand beside a matrix, with which its numbers are multiplied.
enum class WeightScales { none, one, each_row };

/// Inputs in the largest block of ConvRot's rotation.
inline constexpr int kMostRotation = 4096;
/// \return whether blocks of so many inputs are rotated: 4 to kMostRotation, a power of 4.
bool is_rotation(int64_t inputs);

/// A format of stored numbers.
struct WeightFormat {
  StoredType type = StoredType::f32;
  WeightScales scales = WeightScales::none;
  /// Inputs in a block of ConvRot's rotation, a power of 4; 0 without one. The matrix is stored as W H, with the
  /// regular Hadamard matrix H of so many rows in each block: H is the Kronecker power of H4 = 1/2 [[1,1,1,-1],
  /// [1,1,-1,1], [1,-1,1,1], [-1,1,1,1]], symmetric and its own inverse. Source: arXiv:2512.03673.
  int64_t rotation = 0;

  /// \return whether nothing but a conversion of each number is needed.
  bool is_plain() const { return plain_dtype(type).has_value() && scales == WeightScales::none && rotation == 0; }
  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

/// Rows of a matrix as a file stores them, in memory that somebody else owns.
struct StoredMatrix {
  WeightFormat format;
  int64_t rows = 0, columns = 0;
  const std::byte* data = nullptr;  ///< of the first row; null where there is none yet. Of any alignment
  size_t row_stride = 0;            ///< bytes from one row to the next
  const float* scales = nullptr;    ///< one, or one for each of the rows; null without scales

  /// \param data of all rows, one after the other
  static StoredMatrix whole(const WeightFormat& format, int64_t rows, int64_t columns, const std::byte* data,
                            const float* scales = nullptr);
  /// \return bytes of a row of `columns`.
  size_t row_bytes() const;
  /// \return bytes of the numbers and of their scales, without gaps between rows.
  size_t size_in_bytes() const;
  /// \return `count` rows from `begin` on.
  StoredMatrix row_range(int64_t begin, int64_t count) const;
  /// \return whether columns [begin, begin + count) end where blocks end, of numbers and of the rotation.
  bool can_cut_columns(int64_t begin, int64_t count) const;
  /// \return `count` columns from `begin` on, which can_cut_columns() must allow. \throws Error internal if it does not
  StoredMatrix column_range(int64_t begin, int64_t count) const;
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace nostos
