// Owns the choice of the devices that a run draws on. Programs call it with what the user named, before they make an
// Engine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "device/device.h"

namespace nostos {

/// How many ranks want a device, and in what form.
struct DeviceUsers {
  int64_t ranks = 1;           ///< of the whole run
  bool are_processes = false;  ///< of a launcher, otherwise threads of this process
  bool may_share_gpu = false;  ///< whether several threads may draw on one GPU
  int64_t place = 0;           ///< of this process among those of its host, whose number is:
  int64_t on_host = 1;
  bool is_shown_one = false;  ///< the launcher has chosen what GPUs this process sees, by CUDA_VISIBLE_DEVICES
};

/// What a process draws on.
struct DeviceChoice {
  Device device;          ///< of this process, or of its thread rank 0
  bool per_rank = false;  ///< each rank has a GPU of its own: thread rank r the r-th after `device`

  friend bool operator==(const DeviceChoice&, const DeviceChoice&) = default;
};

/// \return the device that `name` means: "cpu", "cuda:N", "cuda" (GPU 0, and where there are several ranks, a GPU
/// each), or "auto". "auto" is "cuda" where this build has CUDA and the machine a usable GPU, or for several processes
/// a GPU for each on this host; otherwise it is the CPU. A process that sees one GPU alone, because its launcher has
/// set CUDA_VISIBLE_DEVICES, takes that GPU.
/// \throws Error invalid_input for another name, for too few GPUs where ranks may not share one, and for a GPU that is
/// named for several processes. Error device for a GPU that is missing, too old or without a driver, and for threads on
/// different GPUs
DeviceChoice choose_device(std::string_view name, const DeviceUsers& users);

/// \return the name of a GPU that was chosen, or "CPU".
std::string device_name(Device device);

/// The same for a machine with `gpus` usable GPUs, any of which may be too old.
DeviceChoice choose_device(std::string_view name, const DeviceUsers& users, int gpus);

/// \return how many GPUs from `first` on are of its kind, so that as many ranks can have one each; of the CPU 1.
int64_t equal_gpus(Device first);

}  // namespace nostos
