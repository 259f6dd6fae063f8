// The fused attention of a wide head in a build that is not for Hopper GPUs: there is none.
#include "base/error.h"
#include "ops/cuda/wide_attention.h"

namespace nostos::cuda {

bool has_wide_attention(int, DType, int64_t, int64_t) { return false; }

void wide_attention(ConstView, ConstView, ConstView, float, View, CUstream_st*) {
  fail(ErrorKind::internal, "this build has no fused attention of a wide head");
}

}  // namespace nostos::cuda
