// Owns a copy from a device to the host that nobody waits for. Use it to look at values while the GPU works on, as
// previews do.
#pragma once

#include "device/context.h"
#include "device/pinned_buffer.h"
#include "tensor/tensor.h"

namespace nostos {

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
