// Owns raw memory: of a device, and of the host for a GPU's copies. Tensors and arenas are made of it; take one of
// these where it serves.
#pragma once

#include <cstddef>
#include <memory>

#include "device/device.h"

namespace nostos {

/// Move-only owner of bytes on a device, aligned to 64 bytes on the CPU and to 256 on a GPU. Giving a GPU's memory back
/// waits for the GPU's work. The contents are unspecified until written.
class Buffer {
 public:
  static constexpr size_t kAlignment = 64;

  Buffer() = default;
  /// \throws Error out_of_memory naming the size if the device cannot give `bytes`; device if there is no such device.
  Buffer(Device device, size_t bytes);

  std::byte* data() const { return data_.get(); }
  size_t size_bytes() const { return data_ ? bytes_ : 0; }
  Device device() const { return data_.get_deleter().device; }

 private:
  struct Release {
    Device device;
    void operator()(std::byte* data) const noexcept;
  };

  std::unique_ptr<std::byte, Release> data_;
  size_t bytes_ = 0;
};

/// Move-only owner of host bytes, page-locked for a cuda device, which copies from and to them by itself, and ordinary
/// for the CPU. Use it for copies that nobody waits for. The contents are unspecified until written.
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
