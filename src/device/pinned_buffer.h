// Owns host memory that a GPU copies from and to by itself. Use it for copies that nobody waits for.
#pragma once

#include <cstddef>

#include "device/device.h"

namespace nostos {

/// Move-only owner of host bytes, page-locked for a cuda device and ordinary for the CPU. The contents are unspecified
/// until written.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// \throws Error out_of_memory
  PinnedBuffer(Device device, size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return bytes_; }

 private:
  Device device_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace nostos
