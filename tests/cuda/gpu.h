// Owns what tests on a GPU share: its context, tensors on it, and the reason to skip where there is none.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "device/context.h"
#include "ops/support.h"
#include "tensor/transfer.h"

namespace nostos {

/// \return why there is no GPU to test on; empty if there is one.
std::string missing_gpu();

/// \return the context of GPU 0, shared by the tests of a process.
Context& gpu();

/// \return a copy of `host` on the GPU.
inline Tensor on_gpu(ConstView host) {
  Tensor made(gpu().device(), host.dtype(), host.shape());
  upload(gpu(), host, made);
  return made;
}

/// \return a copy of `device` on the host; waits for it.
inline Tensor on_host(ConstView device) {
  Tensor made(Device{}, device.dtype(), device.shape());
  download(gpu(), device, made);
  gpu().synchronize("test");
  return made;
}

}  // namespace nostos
