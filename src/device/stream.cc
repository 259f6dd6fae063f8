// Implements streams and events on the CUDA seam.
#include "device/stream.h"

#include <cstring>
#include <utility>

namespace nostos {

Event::Event(Device device, bool timed) : device_(device) {
  if (device.kind == DeviceKind::cuda) handle_ = cuda::create_event(device.index, timed);
}

Event::~Event() {
  if (handle_ != nullptr) cuda::destroy_event(device_.index, handle_);
}

Event::Event(Event&& other) noexcept : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  return *this;
}

void Event::record(Stream& stream) {
  if (handle_ != nullptr) cuda::record(handle_, stream.handle());
}

bool Event::is_done() const { return handle_ == nullptr || cuda::is_done(handle_); }

float Event::elapsed_ms(const Event& begin, const Event& end) {
  return begin.handle_ == nullptr ? 0 : cuda::elapsed_ms(begin.handle_, end.handle_);
}

Stream::Stream(Device device) : device_(device) {
  if (device.kind == DeviceKind::cuda) handle_ = cuda::create_stream(device.index);
}

Stream::~Stream() {
  if (handle_ != nullptr) cuda::destroy_stream(device_.index, handle_);
}

Stream::Stream(Stream&& other) noexcept : device_(other.device_), handle_(std::exchange(other.handle_, nullptr)) {}

Stream& Stream::operator=(Stream&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  return *this;
}

void Stream::wait(const Event& event) {
  if (handle_ != nullptr) cuda::wait(handle_, event.handle());
}

void Stream::copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes == 0) return;
  if (handle_ != nullptr)
    cuda::copy_async(to, from, bytes, handle_);
  else
    std::memcpy(to, from, bytes);
}

}  // namespace nostos
