// Owns the copy of scattered rows: how shards are packed, unpacked and put in order.
#pragma once

#include <cstdint>
#include <span>

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos::ops {

/// Consecutive rows and where they go.
struct RowRun {
  int64_t from = 0;
  int64_t to = 0;
  int64_t count = 0;
};

/// Copies rows [from, from + count) of the second axis to [to, to + count), for every entry of the first axis.
/// \param from [outer, rows, ...], \param to [outer, other rows, ...], of one dtype; no overlap. What no run names is
/// left alone.
void copy_rows(Context& ctx, ConstView from, View to, std::span<const RowRun> runs);

}  // namespace nostos::ops
