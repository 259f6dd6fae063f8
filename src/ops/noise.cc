// Checks and dispatches noise.
#include "ops/noise.h"

#include "base/error.h"
#include "ops/dispatch.h"

namespace nostos::ops {

void philox_normal(Context& ctx, uint64_t seed, View out, int64_t draw) {
  check(out.dtype() == DType::f32, "philox_normal gives f32");
  if (out.elements() > 0) dispatch<philox_normal>(ctx, seed, out, draw);
}

}  // namespace nostos::ops
