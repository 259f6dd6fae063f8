// Checks and dispatches the copy of rows.
#include "ops/copy_rows.h"

#include "base/error.h"
#include "ops/dispatch.h"

namespace nostos::ops {

void copy_rows(Context& ctx, ConstView from, View to, std::span<const RowRun> runs) {
  const Shape &source = from.shape(), &target = to.shape();
  check(source.rank() >= 2 && source.rank() == target.rank() && from.dtype() == to.dtype(),
        "copy_rows keeps the rank and the dtype");
  for (int axis = 0; axis < source.rank(); ++axis)
    check(axis == 1 || source[axis] == target[axis], "copy_rows keeps every axis but the rows");
  for (const RowRun& run : runs) {
    check(run.count >= 0 && run.from >= 0 && run.to >= 0 && run.from + run.count <= source[1] &&
              run.to + run.count <= target[1],
          "a run lies within the rows");
  }
  dispatch<copy_rows>(ctx, from, to, runs);
}

}  // namespace nostos::ops
