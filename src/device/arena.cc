// Implements the bump allocator.
#include "device/arena.h"

#include <algorithm>

#include "base/error.h"

namespace nostos {

std::byte* Arena::take(size_t bytes) {
  const size_t rounded = (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  const size_t begin = used_;
  used_ += rounded;
  peak_ = std::max(peak_, used_);
  if (!capacity_) return nullptr;
  check(used_ <= *capacity_, "the arena is smaller than its plan");
  return memory_ + begin;
}

}  // namespace nostos
