// Owns the parallel loop of CPU ops.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "device/context.h"

namespace nostos::cpu {

/// Brings what the first of a parallel loop's bodies throws to the thread that began the loop: out of a parallel region
/// it would end the process.
class LoopErrors {
 public:
  /// Runs `body`, or nothing once one has thrown. Any thread.
  template <class Body>
  void guard(const Body& body) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      body();
    } catch (...) {
      if (!failed_.exchange(true)) first_ = std::current_exception();
    }
  }
  /// After the loop. \throws what the first has thrown
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr first_;
};

/// Calls body(begin, end) on equal parts of [0, count), one part a thread; no more threads than `count / grain`.
/// \throws what the first body throws
template <class Body>
void parallel_ranges(const Context& ctx, int64_t count, int64_t grain, const Body& body) {
  const int64_t parts = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, ctx.threads());
  if (parts == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  LoopErrors errors;
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1)
  for (int64_t part = 0; part < parts; ++part)
    errors.guard([&] { body(count * part / parts, count * (part + 1) / parts); });
  errors.rethrow();
}

/// Calls body(task) for each of [0, count), the next by whichever thread is free. \throws what the first body throws
template <class Body>
void parallel_tasks(const Context& ctx, int64_t count, const Body& body) {
  LoopErrors errors;
#pragma omp parallel for schedule(dynamic) num_threads(ctx.threads())
  for (int64_t task = 0; task < count; ++task) errors.guard([&] { body(task); });
  errors.rethrow();
}

/// Rows a thread should at least get so that starting it pays, for rows of `elements`.
inline int64_t row_grain(int64_t elements) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(elements, 1)); }

}  // namespace nostos::cpu
