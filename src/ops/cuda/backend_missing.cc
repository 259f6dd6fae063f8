// Stands in for CUDA's kernels in a build without CUDA.
#include "base/error.h"
#include "ops/backend.h"

namespace nostos::ops {

const Backend& cuda_backend() {
  fail(ErrorKind::device, "this build has no CUDA backend: configure with -DNOSTOS_CUDA=ON, or run on the CPU");
}

}  // namespace nostos::ops
