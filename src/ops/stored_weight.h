// Owns weights that stay as they are stored, e.g. in 4-bit blocks, and are turned into numbers when they are used.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/context.h"
#include "ops/linear.h"
#include "tensor/tensor.h"
#include "tensor/weight_format.h"

namespace nostos {

/// Rows of a stored matrix and where they stand in a weight: `run` side by side from `begin` on, the next run `stride`
/// further on, as in NamedRows.
struct StoredPiece {
  StoredMatrix matrix;  ///< in the device's memory
  int64_t begin = 0;
  int64_t run = 0;     ///< matrix.rows where they stand in one piece
  int64_t stride = 0;  ///< likewise

  /// \return where row `i` of the matrix stands in the weight.
  int64_t row(int64_t i) const { return begin + i / run * stride + i % run; }
};

namespace ops {

/// out = the numbers that the pieces store, each row of a piece in its place: number * scale in float32, rotated back
/// where the format says so, and rounded once to out's dtype. The float32 numbers are those of the formats' references,
/// bit for bit, on every device: `gguf` (PyPI) for GGUF's blocks, PyTorch for f8, and comfy-kitchen (PyPI) for scales
/// and rotation; a rotated row's sum is taken in whole numbers before it is scaled, whatever order the reference adds
/// in.
/// \param pieces every row of out stands in one of them \param out f32 or bf16 [rows, columns]
void dequantise(Context& ctx, std::span<const StoredPiece> pieces, View out);

/// A weight of `shape` [out, in] that is kept as it is stored. Products turn it into `input` numbers, which they
/// multiply with as with any packed weight, in scratch memory of the context. The pieces' memory is the caller's and
/// must hold whenever the weight is used; size_in_bytes() does not count it. On a GPU products give the bits that
/// pack_linear() of the dequantised weight gives. On the CPU they go through the outputs in parts, which depend on the
/// weight alone: a row depends on that row of x alone, but maybe the library adds in another order than with the whole
/// weight.
/// \param input f32 or bf16
/// \throws Error device as pack_linear()
Linear keep_stored(Context& ctx, std::vector<StoredPiece> pieces, const Shape& shape, DType input);

/// \return bytes of scratch memory that products with a kept weight of `shape` [out, in] take on a GPU, of each context
/// that makes them; linear_sum() of two kept weights takes the sum. A context keeps what its largest product has taken,
/// up to a quarter more where it had taken less before. (The CPU takes a part's alone, some MB.)
size_t stored_scratch_bytes(const Shape& shape, DType input);

/// out[i] = row ids[i] of the table, dequantised. \param ids i32 [rows], each in range. \param out f32 [rows, columns].
void embed(Context& ctx, const StoredMatrix& table, ConstView ids, View out);

}  // namespace ops
}  // namespace nostos
