// Owns the choice of the row kernels' instruction set.
#include <cstdlib>
#include <string_view>

#include "ops/cpu/row_kernels.h"

namespace nostos::cpu {

const RowKernels& row_kernels() {
  static const RowKernels& chosen = []() -> const RowKernels& {
    __builtin_cpu_init();
    const char* limit = std::getenv("ONEDNN_MAX_CPU_ISA");
    const bool only_avx2 = limit != nullptr && (std::string_view(limit) == "AVX2" || std::string_view(limit) == "AVX");
    if (!only_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return row_kernels_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return row_kernels_avx2;
    return row_kernels_baseline;
  }();
  return chosen;
}

}  // namespace nostos::cpu
