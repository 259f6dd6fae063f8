// Dispatches every op to the CPU, those that GPUs alone have included: in the place of the library's header.
#pragma once

#include "base/error.h"
#include "device/context.h"
#include "ops/device_op.h"

namespace nostos::ops {

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch(Context& ctx, const Args&... args) {
  ctx.bind_thread();
  return Op<kOp>::template on<DeviceKind::cpu>(ctx, args...);
}

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch_to_gpu(Context& ctx, const Args&... args) {
  return dispatch<kOp>(ctx, args...);
}

}  // namespace nostos::ops
