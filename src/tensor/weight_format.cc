// Implements the formats of stored weights.
#include "tensor/weight_format.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace nostos {
namespace {

struct Row {
  StoredType type;
  int64_t elements;  // of a block
  size_t bytes;      // of a block
  std::string_view name;
  std::optional<DType> plain;
};

constexpr std::array<Row, 18> kTable{{{StoredType::f32, 1, 4, "F32", DType::f32},
                                      {StoredType::f16, 1, 2, "F16", DType::f16},
                                      {StoredType::bf16, 1, 2, "BF16", DType::bf16},
                                      {StoredType::f8_e4m3, 1, 1, "F8_E4M3", {}},
                                      {StoredType::f8_e5m2, 1, 1, "F8_E5M2", {}},
                                      {StoredType::i8, 1, 1, "I8", {}},
                                      {StoredType::q4_0, 32, 18, "Q4_0", {}},
                                      {StoredType::q4_1, 32, 20, "Q4_1", {}},
                                      {StoredType::q5_0, 32, 22, "Q5_0", {}},
                                      {StoredType::q5_1, 32, 24, "Q5_1", {}},
                                      {StoredType::q8_0, 32, 34, "Q8_0", {}},
                                      {StoredType::q2_k, 256, 84, "Q2_K", {}},
                                      {StoredType::q3_k, 256, 110, "Q3_K", {}},
                                      {StoredType::q4_k, 256, 144, "Q4_K", {}},
                                      {StoredType::q5_k, 256, 176, "Q5_K", {}},
                                      {StoredType::q6_k, 256, 210, "Q6_K", {}},
                                      {StoredType::iq4_nl, 32, 18, "IQ4_NL", {}},
                                      {StoredType::iq4_xs, 256, 136, "IQ4_XS", {}}}};

const Row& row_of(StoredType type) { return kTable[static_cast<size_t>(type)]; }

}  // namespace

int64_t block_elements(StoredType type) { return row_of(type).elements; }

size_t block_bytes(StoredType type) { return row_of(type).bytes; }

std::string_view name(StoredType type) { return row_of(type).name; }

std::optional<StoredType> parse_stored_type(std::string_view name) {
  const auto found = std::ranges::find(kTable, name, &Row::name);
  return found == kTable.end() ? std::nullopt : std::optional(found->type);
}

std::optional<DType> plain_dtype(StoredType type) { return row_of(type).plain; }

StoredType stored_type(DType dtype) {
  const auto found = std::ranges::find(kTable, dtype, &Row::plain);
  check(found != kTable.end(), "weights are stored as f32, f16 or bf16");
  return found->type;
}

bool is_rotation(int64_t inputs) {
  if (inputs < 4 || inputs > kMostRotation) return false;
  while (inputs % 4 == 0) inputs /= 4;
  return inputs == 1;
}

StoredMatrix StoredMatrix::whole(const WeightFormat& format, int64_t rows, int64_t columns, const std::byte* data,
                                 const float* scales) {
  StoredMatrix matrix{format, rows, columns, data, 0, scales};
  matrix.row_stride = matrix.row_bytes();
  return matrix;
}

size_t StoredMatrix::row_bytes() const {
  return static_cast<size_t>(columns / block_elements(format.type)) * block_bytes(format.type);
}

size_t StoredMatrix::size_in_bytes() const {
  const int64_t factors = format.scales == WeightScales::none ? 0 : format.scales == WeightScales::one ? 1 : rows;
  return static_cast<size_t>(rows) * row_bytes() + static_cast<size_t>(factors) * sizeof(float);
}

StoredMatrix StoredMatrix::row_range(int64_t begin, int64_t count) const {
  check(begin >= 0 && count >= 0 && begin + count <= rows, "rows of a matrix lie in it");
  StoredMatrix part = *this;
  part.rows = count;
  if (data != nullptr) part.data = data + static_cast<size_t>(begin) * row_stride;
  if (scales != nullptr && format.scales == WeightScales::each_row) part.scales = scales + begin;
  return part;
}

bool StoredMatrix::can_cut_columns(int64_t begin, int64_t count) const {
  const int64_t block = std::max(block_elements(format.type), format.rotation);
  return begin >= 0 && count >= 0 && begin + count <= columns && begin % block == 0 && count % block == 0;
}

StoredMatrix StoredMatrix::column_range(int64_t begin, int64_t count) const {
  check(can_cut_columns(begin, count), "columns are cut at the ends of blocks");
  StoredMatrix part = *this;
  part.columns = count;
  if (data != nullptr)
    part.data = data + static_cast<size_t>(begin / block_elements(format.type)) * block_bytes(format.type);
  return part;
}

}  // namespace nostos
