// Owns what every op needs to run on one rank: the device, its threads, its library handles and the cancel flag.
#pragma once

#include <atomic>
#include <memory>
#include <typeindex>
#include <unordered_map>

#include "device/device.h"

namespace nostos {

/// Goes first into every op and model function. One per rank, used by one host thread at a time.
class Context {
 public:
  /// \param threads CPU threads that this rank's ops may use; 0 takes all that the process may run on.
  explicit Context(Device device = {}, int threads = 0);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  int threads() const { return threads_; }

  /// Makes the calling thread's parallel regions use this context's threads. Every op begins with it: the setting belongs to the host
  /// thread, which may have worked for another context since.
  void bind_thread() const;

  /// \return the one `T` of this context, made as T(*this) on first use: a backend's handles and caches.
  template <class T>
  T& state() {
    std::shared_ptr<void>& slot = states_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

  /// Watches `flag` (may be null): once it is true, throw_if_cancelled() throws. The flag must outlive the watch.
  void watch_cancel(const std::atomic<bool>* flag) { cancel_ = flag; }
  /// \throws Error cancelled once the watched flag is set. Called between blocks and steps.
  void throw_if_cancelled() const;

 private:
  Device device_;
  int threads_;
  const std::atomic<bool>* cancel_ = nullptr;
  std::unordered_map<std::type_index, std::shared_ptr<void>> states_;
};

}  // namespace nostos
