// Chooses the backend of a context.
#include "ops/backend.h"

namespace nostos::ops {

const Backend& begin(const Context& ctx) {
  ctx.bind_thread();
  return ctx.device().kind == DeviceKind::cuda ? cuda_backend() : cpu_backend();
}

}  // namespace nostos::ops
