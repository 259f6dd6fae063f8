// Implements the context.
#include "device/context.h"

#include <omp.h>

#include "base/error.h"

namespace nostos {

Context::Context(Device device, int threads) : device_(device), threads_(threads > 0 ? threads : omp_get_num_procs()) {}

void Context::bind_thread() const { omp_set_num_threads(threads_); }

void Context::throw_if_cancelled() const {
  if (cancel_ != nullptr && cancel_->load(std::memory_order_relaxed)) fail(ErrorKind::cancelled, "cancelled");
}

}  // namespace nostos
