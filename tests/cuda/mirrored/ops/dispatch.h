// Makes the op tests of tests/ops run on the GPU: in the place of the library's header, it copies every op's host
// operands to the GPU, runs CUDA's op there and copies back what it has written, guards included.
#pragma once

#include "base/error.h"
#include "cuda/mirrored/mirror.h"
#include "device/context.h"
#include "ops/capabilities.h"
#include "ops/device_op.h"

namespace nostos::ops {

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch(Context&, const Args&... args) {
  Mirror mirror;
  if constexpr (std::is_void_v<typename Op<kOp>::Given>) {
    Op<kOp>::template on<DeviceKind::cuda>(gpu(), mirror.place(args)...);
    mirror.finish();
  } else {
    const auto given = Op<kOp>::template on<DeviceKind::cuda>(gpu(), mirror.place(args)...);
    mirror.finish();
    return mirror.home(given);
  }
}

template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch_to_gpu(Context& ctx, const Args&... args) {
  return dispatch<kOp>(ctx, args...);
}

/// What the GPU can do, but for what tests/cuda tests where it lies: results of other rounding, and memory of the
/// GPU's.
template <auto kOp>
Capabilities run_on(Device, Device) {
  const Capabilities can = Op<kOp>::template on<DeviceKind::cuda>(gpu().device());
  return {.bf16_products = can.bf16_products, .gated_multiple = can.gated_multiple};
}

}  // namespace nostos::ops
