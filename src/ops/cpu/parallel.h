// Owns the parallel loop of CPU ops.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/context.h"

namespace nostos::cpu {

/// Calls body(begin, end) on equal parts of [0, count), one part a thread; no more threads than `count / grain`. The
/// body must not throw.
template <class Body>
void parallel_ranges(const Context& ctx, int64_t count, int64_t grain, const Body& body) {
  const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, ctx.threads());
  if (parts == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (int64_t part = 0; part < parts; ++part) body(count * part / parts, count * (part + 1) / parts);
}

/// Rows a thread should at least get so that starting it pays, for rows of `elements`.
inline int64_t row_grain(int64_t elements) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(elements, 1)); }

}  // namespace nostos::cpu
