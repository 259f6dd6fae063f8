// Checks and dispatches noise.
#include "ops/noise.h"

#include "base/error.h"
#include "ops/dispatch.h"

namespace nostos::ops {

void philox_normal(Context& ctx, uint64_t seed, View out, uint64_t offset) {
  check(out.dtype() == DType::f32, "philox_normal gives f32");
  check(offset % 4 == 0, "draws of philox_normal begin at whole rounds");
  if (out.elements() > 0) dispatch<philox_normal>(ctx, seed, out, offset);
}

}  // namespace nostos::ops
