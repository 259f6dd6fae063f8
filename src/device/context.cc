// Implements the context.
#include "device/context.h"

#include <omp.h>

#include "base/error.h"

namespace nostos {

Context::Context(Device device, int threads) : device_(device), threads_(threads > 0 ? threads : omp_get_num_procs()) {
  // oneDNN sizes its parallel regions by the calling thread's OpenMP setting, which is per thread: ranks do not disturb each other.
  omp_set_num_threads(threads_);
}

void Context::throw_if_cancelled() const {
  if (cancel_ != nullptr && cancel_->load(std::memory_order_relaxed)) fail(ErrorKind::cancelled, "cancelled");
}

}  // namespace nostos
