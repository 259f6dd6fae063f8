// Owns what every op needs to run on one rank: the device, its threads and streams, its library handles and the cancel
// flag.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <typeindex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/text_cache.h"
#include "device/device.h"
#include "device/stream.h"

namespace nostos {

/// \return how many CPUs this process may keep busy: those that it may run on, but no more than its control groups allow
/// (cpu_quotas()).
int usable_cpus();

/// Goes first into every op and model function. One per rank, used by one host thread at a time.
class Context {
 public:
  /// \param threads CPU threads that this rank's ops may use; 0 takes usable_cpus().
  /// \param cache of what ops find out by trials; null: nothing is kept
  /// \throws Error device if the device is missing, too old or not supported by this build
  explicit Context(Device device = {}, int threads = 0, std::shared_ptr<const TextCache> cache = nullptr);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Device device() const { return device_; }
  int threads() const { return threads_; }
  const std::shared_ptr<const TextCache>& cache() const { return cache_; }

  /// The stream that ops enqueue on.
  Stream& stream() { return stream_; }
  /// A stream for uploads that run beside the ops; order it with events.
  Stream& copy_stream() { return copy_stream_; }

  /// Waits until everything enqueued on stream() is done, then finishes what defer() was given. The only host wait of a
  /// run.
  /// \param reason for the record of waits, e.g. "picture".
  /// \throws Error device_lost if the GPU was lost or a kernel failed
  void synchronize(const char* reason);
  /// After a run that failed: waits likewise, and forgets what defer() was given, whose memory may be gone.
  void abandon_work() noexcept;
  /// \return how often the host has waited for the GPU; always 0 on the CPU.
  int64_t host_waits() const { return host_waits_; }
  /// Counts a wait for a part of the work, e.g. for staging memory to come free.
  void count_host_wait(const char* reason);
  /// Runs `finish` in the next synchronize().
  void defer(std::function<void()> finish) { deferred_.push_back(std::move(finish)); }

  /// Makes the calling thread work for this context: its parallel regions use its threads, its CUDA calls its GPU.
  /// Every op begins with it: the settings belong to the host thread, which may have worked for another context since.
  void bind_thread() const;

  /// \return the one `T` of this context, made as T(*this) on first use: a backend's handles and caches.
  template <class T>
  T& state() {
    std::shared_ptr<void>& slot = states_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

  /// Has keep() fill `kept`; null ends it. For Graph::record().
  using Kept = std::vector<std::shared_ptr<const void>>;
  void keep_for_recording(Kept* kept) { recording_ = kept; }
  /// \return whether what is enqueued is being recorded: then nothing may be allocated, waited for or measured.
  bool is_recording() const { return recording_ != nullptr; }
  /// Keeps what a recording under way uses, memory or code, as long as there is the recording. Does nothing without one.
  void keep(std::shared_ptr<const void> used) {
    if (is_recording()) recording_->push_back(std::move(used));
  }

  /// Watches `flag` (may be null): once it is true, throw_if_cancelled() throws. The flag must outlive the watch.
  void watch_cancel(const std::atomic<bool>* flag) { cancel_ = flag; }
  /// \throws Error cancelled once the watched flag is set. Called between blocks and steps.
  void throw_if_cancelled() const;

 private:
  Device device_;
  int threads_;
  std::shared_ptr<const TextCache> cache_;
  Stream stream_;
  Stream copy_stream_;
  int64_t host_waits_ = 0;
  std::vector<std::function<void()>> deferred_;
  Kept* recording_ = nullptr;
  const std::atomic<bool>* cancel_ = nullptr;
  std::unordered_map<std::type_index, std::shared_ptr<void>> states_;
};

}  // namespace nostos
