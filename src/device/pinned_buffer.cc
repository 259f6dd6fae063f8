// Implements page-locked host memory.
#include "device/pinned_buffer.h"

#include <utility>

#include "device/cuda/runtime.h"

namespace nostos {

PinnedBuffer::PinnedBuffer(Device device, size_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  data_ = device.kind == DeviceKind::cuda ? cuda::allocate_pinned(bytes) : new std::byte[bytes];
}

PinnedBuffer::~PinnedBuffer() {
  if (device_.kind == DeviceKind::cuda && data_ != nullptr)
    cuda::release_pinned(data_);
  else
    delete[] data_;
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace nostos
