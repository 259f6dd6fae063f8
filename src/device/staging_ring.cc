// Implements the staging ring.
#include "device/staging_ring.h"

#include "base/error.h"

namespace nostos {

std::optional<size_t> StagingRing::take(size_t bytes) {
  check(bytes > 0 && bytes <= capacity_bytes_, "a piece of a staging ring fits into it");
  size_t begin = 0;
  if (!pieces_.empty()) {
    const Piece &oldest = pieces_.front(), &newest = pieces_.back();
    begin = (newest.end + kAlignment - 1) / kAlignment * kAlignment;
    if (newest.begin >= oldest.begin) {
      // What is in use does not wrap: the piece goes behind it, or else before it.
      if (begin > capacity_bytes_ || bytes > capacity_bytes_ - begin) {
        if (bytes > oldest.begin) return std::nullopt;
        begin = 0;
      }
    } else if (begin > oldest.begin || bytes > oldest.begin - begin) {
      return std::nullopt;
    }
  }
  pieces_.push_back({begin, begin + bytes});
  return begin;
}

void StagingRing::give_back_oldest() {
  check(!pieces_.empty(), "a staging ring gives back what it has handed out");
  pieces_.pop_front();
}

}  // namespace nostos
