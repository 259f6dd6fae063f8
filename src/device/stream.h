// Owns streams and events: the order of work on a device. Ops take a Context, which has two streams; make others only
// for work beside them.
#pragma once

#include <cstddef>

#include "device/cuda/runtime.h"
#include "device/device.h"

namespace nostos {

class Stream;

/// A point in a stream's work. On the CPU every event is done, because ops run there when they are called.
class Event {
 public:
  /// \param timed whether elapsed_ms() will be asked for. \throws Error device
  explicit Event(Device device = {}, bool timed = false);
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  /// Marks the work enqueued on `stream` so far.
  void record(Stream& stream);
  /// \return whether the marked work is done, without waiting; true before the first record().
  bool is_done() const;
  /// \return milliseconds between two timed events, both done; 0 on the CPU.
  static float elapsed_ms(const Event& begin, const Event& end);

  /// \return the cudaEvent_t; null on the CPU.
  CUevent_st* handle() const { return handle_; }

 private:
  Device device_;
  CUevent_st* handle_ = nullptr;
};

/// Work of one device that runs in order.
class Stream {
 public:
  /// \throws Error device
  explicit Stream(Device device);
  ~Stream();
  Stream(Stream&& other) noexcept;
  Stream& operator=(Stream&& other) noexcept;

  /// Work enqueued on this stream from now on begins after `event`.
  void wait(const Event& event);
  /// Copies between any two of the device's memory and PinnedBuffers, in the order of the stream.
  void copy(std::byte* to, const std::byte* from, size_t bytes);

  Device device() const { return device_; }
  /// \return the cudaStream_t; null on the CPU.
  CUstream_st* handle() const { return handle_; }

 private:
  Device device_;
  CUstream_st* handle_ = nullptr;
};

}  // namespace nostos
