// Stands in for NCCL in builds without it.
#include "base/error.h"
#include "parallel/nccl_link.h"

namespace nostos {

bool built_with_nccl() { return false; }

bool is_ending_a_link() { return false; }

std::unique_ptr<GpuLink> connect_gpus(Communicator&, Device) {
  fail(ErrorKind::device,
       "this nostos was built without NCCL and cannot use several GPUs; build it with -DNOSTOS_CUDA=ON "
       "-DNOSTOS_NCCL=ON, or let the ranks share one GPU");
}

}  // namespace nostos
