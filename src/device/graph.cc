// Implements recorded work on the CUDA seam.
#include "device/graph.h"

#include "base/error.h"

namespace nostos {

Graph Graph::record(Context& ctx, const std::function<void()>& enqueue) {
  require(ctx.device().kind == DeviceKind::cuda, ErrorKind::device, "work can be recorded on a GPU alone, not on {}",
          to_string(ctx.device()));
  ctx.bind_thread();
  Graph made;
  cuda::begin_recording(ctx.stream().handle());
  ctx.keep_for_recording(&made.handle_.get_deleter().kept);
  try {
    enqueue();
  } catch (...) {
    ctx.keep_for_recording(nullptr);
    cuda::abandon_recording(ctx.stream().handle());
    throw;
  }
  ctx.keep_for_recording(nullptr);
  made.handle_.reset(cuda::end_recording(ctx.stream().handle()));
  return made;
}

void Graph::launch(Context& ctx) const {
  check(handle_ != nullptr, "an empty graph is not launched");
  ctx.bind_thread();
  cuda::launch(handle_.get(), ctx.stream().handle());
}

}  // namespace nostos
