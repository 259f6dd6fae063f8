// Owns the scratch memory of one planned run: a bump allocator that can be measured before it is filled.
#pragma once

#include <cstddef>

#include "device/buffer.h"
#include "device/device.h"

namespace nostos {

/// Hands out pieces of one block in order. A measuring arena (no memory behind it) counts what a plan would take: run
/// the plan once on a measuring arena, then once more on an arena of peak_bytes().
class Arena {
 public:
  /// A measuring arena: every piece is a null pointer.
  explicit Arena(Device device) : device_(device) {}
  /// An arena of `bytes` on `device`. \throws Error out_of_memory
  Arena(Device device, size_t bytes) : device_(device), block_(device, bytes), measuring_(false) {}

  /// \return the next `bytes`, aligned to Buffer::kAlignment; null while measuring. \throws Error internal beyond the
  /// plan.
  std::byte* take(size_t bytes);

  /// Gives back everything taken since `mark` (a value of used_bytes()), for phases that follow each other.
  void rewind(size_t mark) { used_ = mark; }

  /// \return the bytes of its block; 0 while measuring.
  size_t capacity_bytes() const { return block_.size_bytes(); }
  size_t used_bytes() const { return used_; }
  size_t peak_bytes() const { return peak_; }
  Device device() const { return device_; }

 private:
  Device device_;
  Buffer block_;
  bool measuring_ = true;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace nostos
