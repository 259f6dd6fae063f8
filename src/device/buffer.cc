// Implements device memory, the host's aligned allocator or plain GPU memory, and page-locked host memory.
#include "device/buffer.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/error.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

}  // namespace

Buffer::Buffer(Device device, size_t bytes) : data_(nullptr, Release{device}), bytes_(bytes) {
  if (bytes == 0) return;
  if (device.kind == DeviceKind::cuda) {
    data_.reset(cuda::allocate(device.index, bytes));
    return;
  }
  // Large buffers start on a huge page so that the kernel can back them with few TLB entries.
  const bool large = bytes >= 4 * kHugePageBytes;
  const size_t alignment = large ? kHugePageBytes : kAlignment;
  if (bytes > SIZE_MAX - alignment)
    fail(ErrorKind::out_of_memory, "cannot allocate {} bytes on {}", bytes, to_string(device));
  const size_t rounded_bytes = (bytes + alignment - 1) / alignment * alignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded_bytes)));
  require(data_ != nullptr, ErrorKind::out_of_memory, "out of memory: {} bytes wanted on {}", bytes, to_string(device));
  if (large) madvise(data_.get(), rounded_bytes, MADV_HUGEPAGE);
}

void Buffer::Release::operator()(std::byte* data) const noexcept {
  if (device.kind == DeviceKind::cuda)
    cuda::release(device.index, data);
  else
    std::free(data);
}

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
