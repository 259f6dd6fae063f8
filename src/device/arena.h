// Owns the scratch memory of one planned run: a bump allocator that can be measured before it is filled. Use it for
// what a run needs between its ops; ops themselves take no memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>

#include "base/error.h"
#include "device/buffer.h"
#include "device/device.h"

namespace nostos {

/// Hands out pieces of one block in order. A measuring arena has no memory and counts what a plan would take. Run the
/// plan once on a measuring arena, then once more on an arena of peak_bytes().
class Arena {
 public:
  /// A measuring arena: every piece is a null pointer.
  explicit Arena(Device device) : device_(device) {}
  /// An arena of `bytes` on `device`. \throws Error out_of_memory
  Arena(Device device, size_t bytes)
      : device_(device), block_(device, bytes), memory_(block_.data()), capacity_(bytes) {}
  /// An arena inside memory that the caller owns, for what is laid out anew again and again.
  /// \param memory aligned to Buffer::kAlignment
  Arena(Device device, std::byte* memory, size_t bytes) : device_(device), memory_(memory), capacity_(bytes) {}

  /// \return the next `bytes`, aligned to Buffer::kAlignment; null while measuring. \throws Error internal beyond the
  /// plan.
  std::byte* take(size_t bytes) {
    const size_t begin = used_;
    used_ += (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
    peak_ = std::max(peak_, used_);
    if (!capacity_) return nullptr;
    check(used_ <= *capacity_, "the arena is smaller than its plan");
    return memory_ + begin;
  }

  /// Gives back everything taken since `mark` (a value of used_bytes()), for phases that follow each other.
  void rewind(size_t mark) { used_ = mark; }

  /// \return the bytes of its memory; 0 while measuring.
  size_t capacity_bytes() const { return capacity_.value_or(0); }
  size_t used_bytes() const { return used_; }
  size_t peak_bytes() const { return peak_; }
  Device device() const { return device_; }

 private:
  Device device_;
  Buffer block_;
  std::byte* memory_ = nullptr;
  std::optional<size_t> capacity_;  // none while measuring
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace nostos
