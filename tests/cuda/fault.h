// Owns a fault on purpose.
#pragma once

#include "device/context.h"

namespace nostos::test {

/// Enqueues a kernel that fails and with it loses the GPU to this process.
void lose_device(Context& ctx);

}  // namespace nostos::test
