// Owns the table of loops that turn rows of stored numbers into float32 or bf16, one table per instruction set.
#pragma once

#include <cstdint>

#include "ops/stored_blocks.h"
#include "tensor/bfloat16.h"

namespace nostos::cpu {

/// Loops that end in an element type of the caller's choice (float or bfloat16). Rows may have any alignment.
template <class Out>
struct StoredRowKernels {
  /// out = number * scale, n numbers, for each StoredType.
  void (*rows[kStoredTypes])(const uint8_t* row, int64_t n, float scale, Out* out);
  /// The same of i8, rotated back in blocks of `rotation`, which divides n.
  void (*rotated)(const uint8_t* row, int64_t n, int rotation, float scale, Out* out);
};

struct StoredRows {
  StoredRowKernels<float> to_f32;
  StoredRowKernels<bfloat16> to_bf16;

  template <class Out>
  const StoredRowKernels<Out>& of() const {
    if constexpr (sizeof(Out) == sizeof(float))
      return to_f32;
    else
      return to_bf16;
  }
};

extern const StoredRows stored_rows_baseline;
extern const StoredRows stored_rows_avx2;
extern const StoredRows stored_rows_avx512;

/// \return the table of the instruction set that row_kernels() has.
const StoredRows& stored_rows();

}  // namespace nostos::cpu
