// Stands in for NCCL in builds without it, where no rank has a GPU of its own.
#include "base/error.h"
#include "parallel/nccl_link.h"
#include "parallel/peer_memory.h"

namespace nostos {

bool built_with_nccl() { return false; }

bool is_ending_a_link() { return false; }

std::unique_ptr<GpuLink> connect_gpus(Communicator&, Device) {
  fail(ErrorKind::device,
       "this nostos was built without NCCL and cannot use several GPUs; build it with -DNOSTOS_CUDA=ON "
       "-DNOSTOS_NCCL=ON, or let the ranks share one GPU");
}

std::unique_ptr<PeerMemory> open_peer_memory(Communicator&, Device) { return nullptr; }

}  // namespace nostos
