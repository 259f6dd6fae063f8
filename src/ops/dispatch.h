// Owns the one step from a checked op to the definition of its device. Every op goes through it: a test that puts a
// header of its own in the place of this one sees all ops, those of the future too (nostos_dispatch_ops_by() in CMake).
#pragma once

#include "base/error.h"
#include "device/context.h"
#include "ops/device_op.h"

namespace nostos::ops {

#ifdef NOSTOS_HAS_CUDA
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

/// Runs `kOp` on `device`. \throws Error device if this build has no kernels for it
template <auto kOp, class... Args>
typename Op<kOp>::Given run_on(Device device, Args&&... args) {
  if (device.kind == DeviceKind::cpu) return Op<kOp>::template on<DeviceKind::cpu>(args...);
  if constexpr (kHasCuda) return Op<kOp>::template on<DeviceKind::cuda>(args...);
  fail(ErrorKind::device, "this build has no CUDA backend: configure with -DNOSTOS_CUDA=ON, or run on the CPU");
}

/// Runs `kOp` on the device of `ctx`, for which the calling thread works from now on.
template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch(Context& ctx, const Args&... args) {
  ctx.bind_thread();
  return run_on<kOp>(ctx.device(), ctx, args...);
}

/// The same of an op that GPUs alone have: whoever calls it has asked capabilities().
template <auto kOp, class... Args>
typename Op<kOp>::Given dispatch_to_gpu(Context& ctx, const Args&... args) {
  check(ctx.device().kind == DeviceKind::cuda, "an op that GPUs alone have runs on a GPU");
  ctx.bind_thread();
  if constexpr (kHasCuda) return Op<kOp>::template on<DeviceKind::cuda>(ctx, args...);
  fail(ErrorKind::internal, "a build without CUDA has no context of a GPU");
}

}  // namespace nostos::ops
