// Owns the scratch memory that ops need beside their operands. Each use has a type of its own that derives from
// Workspace, so that ctx.state() keeps the uses apart: an op may call another one while its own scratch is in use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "base/error.h"
#include "device/buffer.h"
#include "device/context.h"

namespace nostos {

/// Scratch memory of one context, made on first use. Its user's ops run one after the other on ctx.stream(). It grows
/// by a quarter at least, and memory that was too small goes with the last recording that uses it.
class Workspace {
 public:
  explicit Workspace(Context& ctx) : ctx_(ctx) {}

  /// \return at least `bytes`, aligned as a Buffer is; contents unspecified.
  /// \throws Error out_of_memory; internal if memory is missing in a recording
  std::byte* at_least(size_t bytes) {
    if (bytes == 0) return nullptr;
    if (!memory_ || memory_->size_bytes() < bytes) {
      check(!ctx_.is_recording(), "an op's scratch memory is made by a run before its recording");
      const size_t before = memory_ ? memory_->size_bytes() : 0;
      auto larger = std::make_shared<const Buffer>(ctx_.device(), std::max(bytes, before + before / 4));
      const std::shared_ptr<const Buffer> used = std::exchange(memory_, std::move(larger));
      // To give a GPU's back now would wait for work that may wait for other ranks.
      if (ctx_.device().kind == DeviceKind::cuda) ctx_.defer([used] {});
    }
    ctx_.keep(memory_);
    return memory_->data();
  }

 private:
  Context& ctx_;
  std::shared_ptr<const Buffer> memory_;
};

}  // namespace nostos
