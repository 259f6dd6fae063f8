// Implements the choice of the device.
#include "pipeline/device_choice.h"

#include <charconv>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

constexpr Device kCpu{DeviceKind::cpu, 0};

/// \return the GPU number of "cuda" or "cuda:N"; nothing for other names.
std::optional<int> gpu_index(std::string_view name) {
  constexpr std::string_view kCuda = "cuda";
  if (!name.starts_with(kCuda)) return {};
  name.remove_prefix(kCuda.size());
  if (name.empty()) return 0;
  int index = -1;
  const char* const end = name.data() + name.size();
  const auto [parsed_to, error] = std::from_chars(name.data() + 1, end, index);
  if (name.front() != ':' || error != std::errc{} || parsed_to != end || index < 0) return {};
  return index;
}

/// \return GPU 0, or the CPU where there is none to use.
Device find_device() {
  try {
    cuda::device_properties(0);
    return {DeviceKind::cuda, 0};
  } catch (const Error& error) {
    log_debug("draws on the CPU: {}", error.what());
    return kCpu;
  }
}

}  // namespace

Device choose_device(std::string_view name, const DeviceUsers& users) {
  const bool several_processes = users.are_processes && users.ranks > 1;
  Device device = kCpu;
  if (name == "auto") {
    if (!several_processes) device = find_device();
  } else if (name != "cpu") {
    const std::optional<int> index = gpu_index(name);
    require(index.has_value(), ErrorKind::invalid_input, "device '{}' is unknown; use auto, cpu, cuda or cuda:N", name);
    cuda::device_properties(*index);
    device = {DeviceKind::cuda, *index};
  }
  if (device.kind == DeviceKind::cpu) return device;
  require(!several_processes, ErrorKind::invalid_input,
          "--device {}: {} processes draw on CPUs alone; for a GPU start one, with --num-gpus", name, users.ranks);
  require(users.ranks == 1 || users.may_share_gpu, ErrorKind::invalid_input,
          "{} ranks of one process would share 1 GPU, {} (this machine has {}): allow it with --allow-shared-gpu, or "
          "draw with one rank",
          users.ranks, to_string(device), cuda::device_count());
  return device;
}

}  // namespace nostos
