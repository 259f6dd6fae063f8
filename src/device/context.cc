// Implements the context.
#include "device/context.h"

#include <omp.h>

#include <algorithm>

#include "base/cpu_quota.h"
#include "base/error.h"
#include "base/log.h"

namespace nostos {

int usable_cpus() {
  int cpus = omp_get_num_procs();
  for (const CpuQuota& quota : cpu_quotas()) cpus = std::min(cpus, whole_cpus(quota.cpus));
  return cpus;
}

Context::Context(Device device, int threads, std::shared_ptr<const TextCache> cache)
    : device_(device),
      threads_(threads > 0 ? threads : usable_cpus()),
      cache_(std::move(cache)),
      stream_(device),
      copy_stream_(device) {}

void Context::synchronize(const char* reason) {
  if (stream_.handle() != nullptr) {
    count_host_wait(reason);
    cuda::synchronize(stream_.handle());
  }
  for (const std::function<void()>& finish : std::exchange(deferred_, {})) finish();
}

void Context::abandon_work() noexcept {
  try {
    if (stream_.handle() != nullptr) cuda::synchronize(stream_.handle());
  } catch (const std::exception& error) {
    log_debug("{} failed in a run that was abandoned: {}", to_string(device_), error.what());
  }
  deferred_.clear();
}

void Context::count_host_wait(const char* reason) {
  ++host_waits_;
  log_debug("host waits for {}: {}", to_string(device_), reason);
}

void Context::bind_thread() const {
  omp_set_num_threads(threads_);
  if (device_.kind == DeviceKind::cuda) cuda::use_device(device_.index);
}

void Context::throw_if_cancelled() const {
  if (cancel_ != nullptr && cancel_->load(std::memory_order_relaxed)) fail(ErrorKind::cancelled, "cancelled");
}

}  // namespace nostos
