// Owns how much memory large bodies may take together, while they come and while they are answered.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace nostos::server {

/// Memory that large bodies take together, a part of which one request holds. The network thread takes it, any thread
/// gives it back.
class BodyRoom {
 public:
  explicit BodyRoom(size_t bytes) : left_(static_cast<int64_t>(bytes)) {}

  /// \return the room, or null if so much is not left.
  std::shared_ptr<void> take(size_t bytes) {
    const auto wanted = static_cast<int64_t>(bytes);
    if (left_ < wanted) return nullptr;
    left_ -= wanted;
    return {this, [this, wanted](void*) { left_ += wanted; }};
  }

 private:
  std::atomic<int64_t> left_;
};

}  // namespace nostos::server
