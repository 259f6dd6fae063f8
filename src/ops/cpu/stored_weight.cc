// Implements the ops on stored weights. Of the two ops named embed() that of a stored table is known here.
#include "ops/cpu/stored_weight.h"

#include <memory>
#include <utility>

#include "base/error.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/stored_rows.h"
#include "ops/device_op.h"
#include "ops/typed.h"

namespace nostos {
namespace cpu {
namespace {

/// Turns row `i` of a matrix into numbers.
template <class Out>
void dequantise_row(const StoredMatrix& matrix, int64_t i, Out* out) {
  const WeightFormat& format = matrix.format;
  const auto* row = reinterpret_cast<const uint8_t*>(matrix.data) + static_cast<size_t>(i) * matrix.row_stride;
  const float scale = format.scales == WeightScales::none  ? 1.f
                      : format.scales == WeightScales::one ? *matrix.scales
                                                           : matrix.scales[i];
  const StoredRowKernels<Out>& kernels = stored_rows().of<Out>();
  if (format.rotation > 0)
    kernels.rotated(row, matrix.columns, static_cast<int>(format.rotation), scale, out);
  else
    kernels.rows[static_cast<size_t>(format.type)](row, matrix.columns, scale, out);
}

/// \return which row of `piece` stands in `row` of the weight; -1 if none does.
int64_t row_of(const StoredPiece& piece, int64_t row) {
  const int64_t offset = row - piece.begin;
  if (offset < 0 || piece.matrix.rows == 0) return -1;
  if (piece.run >= piece.matrix.rows) return offset < piece.matrix.rows ? offset : -1;
  const int64_t within = offset % piece.stride, found = offset / piece.stride * piece.run + within;
  return within < piece.run && found < piece.matrix.rows ? found : -1;
}

}  // namespace

void dequantise_rows(const Context& ctx, std::span<const StoredPiece> pieces, int64_t first, View out, int64_t stride) {
  with_elements(out, [&]<class Out>(Out* to) {
    parallel_ranges(ctx, out.shape()[0], row_grain(out.shape()[1]), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t row = -1;
        for (const StoredPiece& piece : pieces) {
          row = row_of(piece, first + i);
          if (row < 0) continue;
          dequantise_row(piece.matrix, row, to + i * stride);
          break;
        }
        check(row >= 0, "pieces of a weight have each of its rows once");
      }
    });
  });
}

}  // namespace cpu

namespace ops {

using namespace cpu;

void run(OnCpu<dequantise>, Context& ctx, std::span<const StoredPiece> pieces, View out) {
  dequantise_rows(ctx, pieces, 0, out, out.shape()[1]);
}

Linear run(OnCpu<keep_stored>, Context&, std::vector<StoredPiece> pieces, const Shape& shape, DType input) {
  auto kept = std::make_shared<KeptWeight>();
  kept->pieces = std::move(pieces);
  return {shape[1], shape[0], input, std::move(kept)};
}

void run(OnCpu<embed>, Context& ctx, const StoredMatrix& table, ConstView ids, View out) {
  const int32_t* id = ids.data<int32_t>();
  float* to = out.data<float>();
  parallel_ranges(ctx, ids.elements(), row_grain(table.columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dequantise_row(table, id[i], to + i * table.columns);
  });
}

}  // namespace ops
}  // namespace nostos
