// Tests the loops over stored rows of every instruction set that this CPU runs.
#include "ops/cpu/stored_rows.h"

#include <gtest/gtest.h>

#include "ops/cpu/row_kernels.h"
#include "ops/stored_cases.h"

namespace nostos {
namespace {

using cpu::StoredRows;

struct Table {
  const char* isa;
  const StoredRows* rows;
};

std::vector<Table> tables() {
  __builtin_cpu_init();
  std::vector<Table> all = {{"baseline", &cpu::stored_rows_baseline}};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back({"avx2", &cpu::stored_rows_avx2});
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    all.push_back({"avx512", &cpu::stored_rows_avx512});
  }
  return all;
}

template <class Out>
Tensor numbers_of(const StoredRows& table, const StoredMatrix& matrix) {
  Tensor made(Device{}, dtype_of<Out>(), {matrix.rows, matrix.columns});
  for (int64_t i = 0; i < matrix.rows; ++i) {
    const WeightFormat& format = matrix.format;
    const auto* row = reinterpret_cast<const uint8_t*>(matrix.data) + static_cast<size_t>(i) * matrix.row_stride;
    const float scale = format.scales == WeightScales::none  ? 1.f
                        : format.scales == WeightScales::one ? matrix.scales[0]
                                                             : matrix.scales[i];
    Out* out = made.data<Out>() + i * matrix.columns;
    const cpu::StoredRowKernels<Out>& kernels = table.of<Out>();
    if (format.rotation > 0)
      kernels.rotated(row, matrix.columns, static_cast<int>(format.rotation), scale, out);
    else
      kernels.rows[static_cast<size_t>(format.type)](row, matrix.columns, scale, out);
  }
  return made;
}

TEST(StoredRows, EveryInstructionSetGivesTheReferencesNumbers) {
  for (const Table& table : tables()) {
    for (const StoredCase& c : stored_cases()) {
      const std::string what = fmt::format("{} {}", table.isa, c.name);
      expect_same_bits(numbers_of<float>(*table.rows, c.matrix), c.numbers, what);
      expect_same_bits(numbers_of<bfloat16>(*table.rows, c.matrix), rounded_to_bf16(c.numbers), what + " to bf16");
    }
  }
}

TEST(StoredRows, HaveTheRowKernelsInstructionSet) {
  const bool is_avx512 = &cpu::row_kernels() == &cpu::row_kernels_avx512,
             is_avx2 = &cpu::row_kernels() == &cpu::row_kernels_avx2;
  EXPECT_EQ(&cpu::stored_rows() == &cpu::stored_rows_avx512, is_avx512);
  EXPECT_EQ(&cpu::stored_rows() == &cpu::stored_rows_avx2, is_avx2);
}

// Of the largest rotation no golden fits into few bytes. A number of 64 becomes ones of either sign, and these become
// it again.
TEST(StoredRows, TheLargestRotationIsItsOwnInverse) {
  constexpr size_t kColumns = kMostRotation;
  for (const Table& table : tables()) {
    for (const size_t chosen : {size_t{0}, size_t{1}, size_t{1234}, kColumns - 1}) {
      std::vector<uint8_t> row(kColumns);
      row[chosen] = 64;
      std::vector<float> rotated(kColumns), back(kColumns);
      table.rows->to_f32.rotated(row.data(), kColumns, kMostRotation, 1.f, rotated.data());
      for (size_t i = 0; i < kColumns; ++i) {
        ASSERT_EQ(std::abs(rotated[i]), 1.f) << table.isa;
        row[i] = static_cast<uint8_t>(static_cast<int8_t>(rotated[i]));
      }
      table.rows->to_f32.rotated(row.data(), kColumns, kMostRotation, 1.f, back.data());
      for (size_t i = 0; i < kColumns; ++i) ASSERT_EQ(back[i], i == chosen ? 64.f : 0.f) << table.isa << " " << i;
    }
  }
}

}  // namespace
}  // namespace nostos
