// Owns the name of a place where tensors live and ops run: the CPU, or one GPU.
#pragma once

#include <string>

namespace nostos {

enum class DeviceKind { cpu, cuda };

/// One device: the host CPU, or one GPU by index.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

/// \return "cpu" or "cuda:0".
inline std::string to_string(Device device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace nostos
