// Implements scratch memory that grows.
#include "ops/cuda/workspace.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace nostos::cuda {

std::byte* Workspace::at_least(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (!memory_ || memory_->size_bytes() < bytes) {
    nostos::check(!ctx_.is_recording(), "an op's scratch memory is made by a run before its recording");
    const size_t before = memory_ ? memory_->size_bytes() : 0;
    auto larger = std::make_shared<const Buffer>(ctx_.device(), std::max(bytes, before + before / 4));
    // To give it back now would wait for work that may wait for other ranks.
    ctx_.defer([used = std::exchange(memory_, std::move(larger))] {});
  }
  ctx_.keep(memory_);
  return memory_->data();
}

}  // namespace nostos::cuda
