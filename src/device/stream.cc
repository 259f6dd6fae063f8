// Implements streams and events on the CUDA seam.
#include "device/stream.h"

#include <cstring>

namespace nostos {

Event::Event(Device device, bool timed) : handle_(nullptr, Destroy{device}) {
  if (device.kind == DeviceKind::cuda) handle_.reset(cuda::create_event(device.index, timed));
}

void Event::record(Stream& stream) {
  if (handle_) cuda::record(handle(), stream.handle());
}

bool Event::is_done() const { return !handle_ || cuda::is_done(handle()); }

float Event::elapsed_ms(const Event& begin, const Event& end) {
  return begin.handle_ ? cuda::elapsed_ms(begin.handle(), end.handle()) : 0;
}

Stream::Stream(Device device) : handle_(nullptr, Destroy{device}) {
  if (device.kind == DeviceKind::cuda) handle_.reset(cuda::create_stream(device.index));
}

void Stream::wait(const Event& event) {
  if (handle_) cuda::wait(handle(), event.handle());
}

void Stream::copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes == 0) return;
  if (handle_)
    cuda::copy_async(to, from, bytes, handle());
  else
    std::memcpy(to, from, bytes);
}

}  // namespace nostos
