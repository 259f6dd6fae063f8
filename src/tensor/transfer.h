// Owns copies between host memory and a context's device. A download never waits, an upload only where staging memory
// is full.
#pragma once

#include "device/context.h"
#include "tensor/tensor.h"

namespace nostos {

/// Copies `host` to `to` on ctx's device, in the order of ctx.stream(). `host` may be reused at once. The call waits
/// only while staging memory is full of earlier copies that are still on their way; ctx.host_waits() counts such waits.
/// \param to of the same dtype and shape.
void upload(Context& ctx, ConstView host, View to);

/// Copies `from` on ctx's device to `host`. `host` is filled once ctx.synchronize() has returned, and must live until
/// then.
/// \param host of the same dtype and shape.
void download(Context& ctx, ConstView from, View host);

}  // namespace nostos
