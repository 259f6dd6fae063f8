// Chooses the backend of a context.
#include "ops/backend.h"

#include "base/error.h"

namespace nostos::ops {

const Backend& begin(const Context& ctx) {
  require(ctx.device().kind == DeviceKind::cpu, ErrorKind::device, "this build has no kernels for device {}",
          to_string(ctx.device()));
  ctx.bind_thread();
  return cpu_backend();
}

}  // namespace nostos::ops
