// Owns the step from a checked op to its backend.
#pragma once

#include "base/error.h"
#include "device/context.h"

namespace nostos::ops {

/// Begins an op: \throws Error device unless `ctx` runs on the CPU, naming the op.
inline void begin_cpu(const Context& ctx, const char* op) {
  require(ctx.device().kind == DeviceKind::cpu, ErrorKind::device, "{} has no kernel for device {} in this build", op,
          to_string(ctx.device()));
  ctx.bind_thread();
}

}  // namespace nostos::ops
