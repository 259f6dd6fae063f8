// Owns recorded work: the kernels of a stretch of a stream, enqueued again with one call.
#pragma once

#include <functional>

#include "device/context.h"

struct CUgraphExec_st;  // *CUgraphExec_st is cudaGraphExec_t

namespace nostos {

/// Work of a GPU stream that is repeated on the same memory: each launch enqueues all that was recorded, at the cost to
/// the host of one call. It holds the addresses and numbers that its kernels were given, which must stay valid, but for
/// what ops keep for themselves (Context::keep()).
class Graph {
 public:
  /// Empty.
  Graph() = default;
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  /// Records what `enqueue` enqueues on ctx.stream(), which does not run yet. `enqueue` neither allocates GPU memory
  /// nor waits: what its ops find out on first use is found out by a run before.
  /// \throws Error device on the CPU, whose ops run when they are called; internal if something cannot be recorded;
  /// what `enqueue` throws
  static Graph record(Context& ctx, const std::function<void()>& enqueue);

  /// Enqueues the recorded work on the stream that it was recorded from. \throws Error internal
  void launch(Context& ctx) const;

  explicit operator bool() const { return handle_ != nullptr; }

 private:
  CUgraphExec_st* handle_ = nullptr;
  Context::Kept kept_;  // what the kernels use beside operands; given back after the handle
};

}  // namespace nostos
