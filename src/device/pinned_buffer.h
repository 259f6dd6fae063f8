// Owns host memory that a GPU copies from and to by itself. Use it for copies that nobody waits for.
#pragma once

#include <cstddef>
#include <memory>

#include "device/device.h"

namespace nostos {

/// Move-only owner of host bytes, page-locked for a cuda device and ordinary for the CPU. The contents are unspecified
/// until written.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// \throws Error out_of_memory
  PinnedBuffer(Device device, size_t bytes);

  std::byte* data() const { return data_.get(); }
  size_t size_bytes() const { return data_ ? bytes_ : 0; }

 private:
  struct Release {
    Device device;
    void operator()(std::byte* data) const noexcept;
  };

  std::unique_ptr<std::byte, Release> data_;
  size_t bytes_ = 0;
};

}  // namespace nostos
