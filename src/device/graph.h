// Owns recorded work: the kernels of a stretch of a stream, enqueued again with one call. Use it for GPU work that
// repeats on the same memory, such as a denoising step.
#pragma once

#include <functional>
#include <memory>

#include "device/context.h"

namespace nostos {

/// Work of a GPU stream that is repeated on the same memory. Each launch enqueues all that was recorded and costs the
/// host one call. A graph holds the addresses and numbers that its kernels were given. What an address names must
/// outlive the graph; what ops keep for themselves (Context::keep()) the graph keeps alive. Move-only, empty at first.
class Graph {
 public:
  /// Records what `enqueue` enqueues on ctx.stream(); the recorded work does not run yet. `enqueue` neither allocates
  /// GPU memory nor waits. Run the same work once before recording, so that its ops have found out what they find out
  /// on first use.
  /// \throws Error device on the CPU, whose ops run when they are called; internal if something cannot be recorded;
  /// what `enqueue` throws
  static Graph record(Context& ctx, const std::function<void()>& enqueue);

  /// Enqueues the recorded work on the stream that it was recorded from. \throws Error internal
  void launch(Context& ctx) const;

  explicit operator bool() const { return handle_ != nullptr; }

 private:
  struct Destroy {
    Context::Kept kept;  // what the kernels use beside operands; given back after the handle
    void operator()(CUgraphExec_st* graph) const noexcept { cuda::destroy_graph(graph); }
  };

  std::unique_ptr<CUgraphExec_st, Destroy> handle_;
};

}  // namespace nostos
