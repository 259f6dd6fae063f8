// Implements the fault.
#include "cuda/fault.h"
#include "device/cuda/check.h"

namespace nostos::test {
namespace {

__global__ void trap() { asm("trap;"); }

}  // namespace

void lose_device(Context& ctx) {
  ctx.bind_thread();
  trap<<<1, 1, 0, ctx.stream().handle()>>>();
  cuda::check_launch("trap");
}

}  // namespace nostos::test
