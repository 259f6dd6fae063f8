// Checks and dispatches the ops on stored weights. Of the two ops named embed() that of a stored table is known here.
#include "ops/stored_weight.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/rounding.h"
#include "ops/dispatch.h"
#include "ops/stored_blocks.h"

namespace nostos::ops {
namespace {

void check_matrix(const StoredMatrix& matrix) {
  const WeightFormat& format = matrix.format;
  check(matrix.rows == 0 || matrix.data != nullptr, "a stored matrix has its numbers");
  check((format.scales == WeightScales::none) == (matrix.scales == nullptr), "a stored matrix has its format's scales");
  check(format.rotation == 0 ||
            (format.type == StoredType::i8 && is_rotation(format.rotation) && matrix.columns % format.rotation == 0),
        "rotated weights are stored as int8, in blocks of 4 to 4096, a power of 4");
  check(matrix.columns % block_elements(format.type) == 0, "rows of a stored matrix are whole blocks");
}

/// Expects every row of `shape` in one of the pieces. (Those that overlap leave a row out.)
void check_pieces(std::span<const StoredPiece> pieces, const Shape& shape) {
  check(shape.rank() == 2, "a weight is a matrix");
  int64_t rows = 0;
  for (const StoredPiece& piece : pieces) {
    check_matrix(piece.matrix);
    check(piece.matrix.columns == shape[1], "pieces of a weight have its inputs");
    if (piece.matrix.rows == 0) continue;
    check(piece.run > 0 && piece.begin >= 0 && (piece.run >= piece.matrix.rows || piece.stride >= piece.run) &&
              piece.row(piece.matrix.rows - 1) < shape[0],
          "pieces of a weight lie in it");
    rows += piece.matrix.rows;
  }
  check(rows == shape[0], "pieces of a weight have each of its rows once");
}

}  // namespace

void dequantise(Context& ctx, std::span<const StoredPiece> pieces, View out) {
  check(out.dtype() == DType::f32 || out.dtype() == DType::bf16, "weights are f32 or bf16");
  check_pieces(pieces, out.shape());
  dispatch<dequantise>(ctx, pieces, out);
}

Linear keep_stored(Context& ctx, std::vector<StoredPiece> pieces, const Shape& shape, DType input) {
  check_pieces(pieces, shape);
  require_products(ctx, input);
  return dispatch<keep_stored>(ctx, pieces, shape, input);
}

void embed(Context& ctx, const StoredMatrix& table, ConstView ids, View out) {
  check_matrix(table);
  check(out.shape() == Shape({ids.elements(), table.columns}) && out.dtype() == DType::f32,
        "embed gives one float32 row an id");
  dispatch<embed>(ctx, table, ids, out);
}

size_t stored_scratch_bytes(const Shape& shape, DType input) {
  constexpr int64_t kAlignment = 256;  // of what lies beside it
  return static_cast<size_t>(round_up(shape.elements() * static_cast<int64_t>(size_bytes(input)), kAlignment));
}

}  // namespace nostos::ops
