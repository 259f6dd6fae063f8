// Implements scratch memory that only grows.
#include "ops/cuda/workspace.h"

#include "base/error.h"
#include "device/cuda/check.h"

namespace nostos::cuda {

bool is_capturing(Context& ctx) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(ctx.stream().handle(), &status), "cannot ask whether a graph is being captured");
  return status != cudaStreamCaptureStatusNone;
}

std::byte* Workspace::at_least(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (blocks_.empty() || blocks_.back().size_bytes() < bytes) {
    nostos::check(!is_capturing(ctx_), "an op's scratch memory is made by a run before its capture");
    blocks_.emplace_back(ctx_.device(), bytes);
  }
  return blocks_.back().data();
}

}  // namespace nostos::cuda
