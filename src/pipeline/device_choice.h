// Owns the choice of the device that a run draws on.
#pragma once

#include <cstdint>
#include <string_view>

#include "device/device.h"

namespace nostos {

/// How many ranks want a device, and in what form.
struct DeviceUsers {
  int64_t ranks = 1;
  bool are_processes = false;  ///< of a launcher, otherwise threads of this process
  bool may_share_gpu = false;  ///< whether several threads may draw on one GPU
};

/// \return the device that `name` means: "cpu", "cuda" (GPU 0), "cuda:N", or "auto": GPU 0 where this build has CUDA
/// and the machine a usable GPU, otherwise the CPU, which is also what several processes get.
/// \throws Error invalid_input for another name, for a GPU that ranks would share unasked, and for processes on GPUs;
/// device for a GPU that is not there, too old or without a driver
Device choose_device(std::string_view name, const DeviceUsers& users);

}  // namespace nostos
