// Owns the order in which pieces of a staging buffer are handed out and come back. upload() and download() stage their
// copies by it.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>

namespace nostos {

/// Places pieces of a ring of bytes one after the other. Pieces come back in the order in which they were given. A
/// StagingRing holds no memory itself.
class StagingRing {
 public:
  /// Pieces begin at multiples of this.
  static constexpr size_t kAlignment = 256;

  explicit StagingRing(size_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  /// \return where the next piece of `bytes` (1 to the capacity) begins; nothing while older pieces are in the way.
  std::optional<size_t> take(size_t bytes);
  /// Gives back the oldest piece. \throws Error internal if there is none.
  void give_back_oldest();

  size_t pieces() const { return pieces_.size(); }
  size_t capacity_bytes() const { return capacity_bytes_; }

 private:
  struct Piece {
    size_t begin, end;
  };
  size_t capacity_bytes_;
  std::deque<Piece> pieces_;
};

}  // namespace nostos
