// Owns the scratch memory that CUDA's libraries need beside an op's operands, and the guard that keeps its making out
// of captures.
#pragma once

#include <cstddef>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"

namespace nostos::cuda {

/// \return whether a CUDA graph is being captured from ctx.stream(): then nothing may be allocated, waited for or
/// measured.
bool is_capturing(Context& ctx);

/// Scratch memory of one context, made on first use. Its user's ops run one after the other on ctx.stream().
class Workspace {
 public:
  explicit Workspace(Context& ctx) : ctx_(ctx) {}

  /// \return at least `bytes`, aligned to 256; contents unspecified.
  /// \throws Error out_of_memory; internal if memory is missing while a graph is captured
  std::byte* at_least(size_t bytes);

 private:
  Context& ctx_;
  std::vector<Buffer> blocks_;  // each larger than the one before; the older ones serve graphs captured with them
};

}  // namespace nostos::cuda
