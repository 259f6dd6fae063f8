// Owns the choice of the instruction set of the row kernels and of the loops over stored rows.
#include <cstdlib>
#include <string_view>

#include "ops/cpu/row_kernels.h"
#include "ops/cpu/stored_rows.h"

namespace nostos::cpu {
namespace {

enum class InstructionSet { baseline, avx2, avx512 };

InstructionSet instruction_set() {
  static const InstructionSet chosen = [] {
    __builtin_cpu_init();
    const char* limit = std::getenv("ONEDNN_MAX_CPU_ISA");
    const bool only_avx2 = limit != nullptr && (std::string_view(limit) == "AVX2" || std::string_view(limit) == "AVX");
    if (!only_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return InstructionSet::avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::avx2;
    return InstructionSet::baseline;
  }();
  return chosen;
}

/// \return the one that is for the chosen set.
template <class Table>
const Table& chosen_of(const Table& baseline, const Table& avx2, const Table& avx512) {
  const InstructionSet chosen = instruction_set();
  return chosen == InstructionSet::avx512 ? avx512 : chosen == InstructionSet::avx2 ? avx2 : baseline;
}

}  // namespace

const RowKernels& row_kernels() { return chosen_of(row_kernels_baseline, row_kernels_avx2, row_kernels_avx512); }

const StoredRows& stored_rows() { return chosen_of(stored_rows_baseline, stored_rows_avx2, stored_rows_avx512); }

}  // namespace nostos::cpu
