// Implements page-locked host memory.
#include "device/pinned_buffer.h"

#include "device/cuda/runtime.h"

namespace nostos {

PinnedBuffer::PinnedBuffer(Device device, size_t bytes) : data_(nullptr, Release{device}), bytes_(bytes) {
  if (bytes == 0) return;
  data_.reset(device.kind == DeviceKind::cuda ? cuda::allocate_pinned(bytes) : new std::byte[bytes]);
}

void PinnedBuffer::Release::operator()(std::byte* data) const noexcept {
  if (device.kind == DeviceKind::cuda)
    cuda::release_pinned(data);
  else
    delete[] data;
}

}  // namespace nostos
