// Owns streams and events: the order of work on a device. Ops take a Context, which has two streams; make others only
// for work beside them.
#pragma once

#include <cstddef>
#include <memory>

#include "device/cuda/runtime.h"
#include "device/device.h"

namespace nostos {

class Stream;

/// A point in a stream's work. On the CPU every event is done, because ops run there when they are called.
class Event {
 public:
  /// \param timed whether elapsed_ms() will be asked for. \throws Error device
  explicit Event(Device device = {}, bool timed = false);

  /// Marks the work enqueued on `stream` so far.
  void record(Stream& stream);
  /// \return whether the marked work is done, without waiting; true before the first record().
  bool is_done() const;
  /// \return milliseconds between two timed events, both done; 0 on the CPU.
  static float elapsed_ms(const Event& begin, const Event& end);

  /// \return the cudaEvent_t; null on the CPU.
  CUevent_st* handle() const { return handle_.get(); }

 private:
  struct Destroy {
    Device device;
    void operator()(CUevent_st* event) const noexcept { cuda::destroy_event(device.index, event); }
  };

  std::unique_ptr<CUevent_st, Destroy> handle_;
};

/// Work of one device that runs in order.
class Stream {
 public:
  /// \throws Error device
  explicit Stream(Device device);

  /// Work enqueued on this stream from now on begins after `event`.
  void wait(const Event& event);
  /// Copies between any two of the device's memory and PinnedBuffers, in the order of the stream.
  void copy(std::byte* to, const std::byte* from, size_t bytes);

  Device device() const { return handle_.get_deleter().device; }
  /// \return the cudaStream_t; null on the CPU.
  CUstream_st* handle() const { return handle_.get(); }

 private:
  struct Destroy {
    Device device;
    void operator()(CUstream_st* stream) const noexcept { cuda::destroy_stream(device.index, stream); }
  };

  std::unique_ptr<CUstream_st, Destroy> handle_;
};

}  // namespace nostos
