// Owns the scratch memory that CUDA's libraries need beside an op's operands.
#pragma once

#include <cstddef>
#include <memory>

#include "device/buffer.h"
#include "device/context.h"

namespace nostos::cuda {

/// Scratch memory of one context, made on first use. Its user's ops run one after the other on ctx.stream(). It grows
/// by a quarter at least, and memory that was too small goes with the last recording that uses it.
class Workspace {
 public:
  explicit Workspace(Context& ctx) : ctx_(ctx) {}

  /// \return at least `bytes`, aligned to 256; contents unspecified.
  /// \throws Error out_of_memory; internal if memory is missing in a recording
  std::byte* at_least(size_t bytes);

 private:
  Context& ctx_;
  std::shared_ptr<const Buffer> memory_;
};

}  // namespace nostos::cuda
