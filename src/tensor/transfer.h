// Owns copies between host memory and a context's device. A download never waits, an upload only where staging memory
// is full. A Landing serves looks at values while the GPU works on, as previews do.
#pragma once

#include "device/buffer.h"
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

/// Room on the host for one tensor at a time, and whether the tensor has come.
class Landing {
 public:
  explicit Landing(Device device) : device_(device), landed_(device) {}

  /// Enqueues a copy of `from` on ctx.stream(). The tensor that came before is lost. Takes memory where there is too
  /// little.
  /// \throws Error out_of_memory
  void fetch(Context& ctx, ConstView from);
  /// \return whether the last copy has come; true before the first.
  bool is_done() const { return landed_.is_done(); }
  /// \return the tensor that came, once is_done(). The tensor lives until the next fetch().
  ConstView tensor() const { return {memory_.data(), dtype_, shape_}; }

 private:
  Device device_;
  Event landed_;
  PinnedBuffer memory_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

}  // namespace nostos
