// Owns the link between an op's one declaration and its definitions, one for each kind of device. Include it where ops
// are dispatched, and in cpu/ and cuda/, where each op that the device has is defined as
//   void run(OnCpu<rms_norm>, Context& ctx, ...)
// with the op's own parameters. An op without such a definition, or one with other parameters, does not link.
#pragma once

#include "device/device.h"

namespace nostos::ops {

/// Names `kOp` on devices of one kind.
template <DeviceKind kKind, auto kOp>
struct On {};
template <auto kOp>
using OnCpu = On<DeviceKind::cpu, kOp>;
template <auto kOp>
using OnCuda = On<DeviceKind::cuda, kOp>;

/// An op by its declaration.
template <auto kOp, class Signature = decltype(kOp)>
struct Op;
template <auto kOp, class Result, class... Params>
struct Op<kOp, Result (*)(Params...)> {
  using Given = Result;

  /// Calls the definition for devices of one kind.
  template <DeviceKind kKind>
  static Result on(Params... params) {
    Result run(On<kKind, kOp>, Params...);  // in cpu/ or cuda/
    return run(On<kKind, kOp>(), params...);
  }
};

}  // namespace nostos::ops
