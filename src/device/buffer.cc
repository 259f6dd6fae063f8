// Implements device memory: the host's aligned allocator, or plain GPU memory.
#include "device/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

}  // namespace

Buffer::Buffer(Device device, size_t bytes) : device_(device), bytes_(bytes) {
  if (bytes == 0) return;
  if (device.kind == DeviceKind::cuda) {
    data_ = cuda::allocate(device.index, bytes);
    return;
  }
  // Large buffers start on a huge page so that the kernel can back them with few TLB entries.
  const bool large = bytes >= 4 * kHugePageBytes;
  const size_t alignment = large ? kHugePageBytes : kAlignment;
  if (bytes > SIZE_MAX - alignment)
    fail(ErrorKind::out_of_memory, "cannot allocate {} bytes on {}", bytes, to_string(device));
  const size_t rounded_bytes = (bytes + alignment - 1) / alignment * alignment;
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded_bytes));
  require(data_ != nullptr, ErrorKind::out_of_memory, "out of memory: {} bytes wanted on {}", bytes, to_string(device));
  if (large) madvise(data_, rounded_bytes, MADV_HUGEPAGE);
}

Buffer::~Buffer() {
  if (device_.kind == DeviceKind::cuda && data_ != nullptr)
    cuda::release(device_.index, data_);
  else
    std::free(data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace nostos
