// Owns what every op needs to run on one rank: the device, threads, streams, library handles and the cancel flag. Make
// one for each rank, and hand it to every op and model function.
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

/// \return how many CPUs this process may keep busy: the CPUs that the process may run on, but no more than its control
/// groups allow (cpu_quotas()).
int usable_cpus();

/// A context goes first into every op and model function. Each rank has one. One host thread at a time uses it.
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
  /// A stream for uploads that run beside the ops. Events order the two streams.
  Stream& copy_stream() { return copy_stream_; }

  /// Waits until everything enqueued on stream() is done, then runs what defer() was given. A run waits for the GPU
  /// nowhere else.
  /// \param reason for the record of waits, e.g. "picture".
  /// \throws Error device_lost if the GPU was lost or a kernel failed
  void synchronize(const char* reason);
  /// For a run that failed: waits like synchronize(), and forgets what defer() was given, because memory that it refers
  /// to may be gone.
  void abandon_work() noexcept;
  /// \return how often the host has waited for the GPU; always 0 on the CPU.
  int64_t host_waits() const { return host_waits_; }
  /// Counts a wait for a part of the work, e.g. for staging memory to come free.
  void count_host_wait(const char* reason);
  /// Runs `finish` in the next synchronize().
  void defer(std::function<void()> finish) { deferred_.push_back(std::move(finish)); }

  /// Makes the calling thread work for this context: the thread's parallel regions use the context's number of threads,
  /// and its CUDA calls go to the context's GPU. Every op begins with bind_thread(), because a host thread may have
  /// worked for another context since the last op.
  void bind_thread() const;

  /// \return the one `T` of this context, made as T(*this) on first use. For a backend's handles and caches.
  template <class T>
  T& state() {
    std::shared_ptr<void>& slot = states_[std::type_index(typeid(T))];
    if (!slot) slot = std::make_shared<T>(*this);
    return *static_cast<T*>(slot.get());
  }

  /// Has keep() fill `kept`; null ends that. Graph::record() calls it.
  using Kept = std::vector<std::shared_ptr<const void>>;
  void keep_for_recording(Kept* kept) { recording_ = kept; }
  /// \return whether what is enqueued is being recorded. While that is so, nothing may be allocated, waited for or
  /// measured.
  bool is_recording() const { return recording_ != nullptr; }
  /// Keeps memory or code that a recording under way uses for as long as there is the recording. Does nothing while
  /// nothing is recorded.
  void keep(std::shared_ptr<const void> used) {
    if (is_recording()) recording_->push_back(std::move(used));
  }

  /// Watches `flag`, which may be null: once the flag is true, throw_if_cancelled() throws. The flag must outlive the
  /// watch.
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
