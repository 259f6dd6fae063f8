// Chooses the backend of a device.
#include "ops/backend.h"

namespace nostos::ops {

const Backend& backend_of(Device device) { return device.kind == DeviceKind::cuda ? cuda_backend() : cpu_backend(); }

}  // namespace nostos::ops
