// Owns raw device memory. Tensors and arenas are made of it; take one of these where it serves.
#pragma once

#include <cstddef>

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
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Device device_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace nostos
