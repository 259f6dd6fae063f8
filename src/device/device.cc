// Implements device names.
#include "device/device.h"

namespace nostos {

std::string to_string(Device device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace nostos
