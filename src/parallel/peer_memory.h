// Owns the seam to GPUs of one process that write into each other's memory. A build without CUDA links a stand-in.
#pragma once

#include <memory>
#include <span>

#include "device/device.h"
#include "device/stream.h"
#include "parallel/communicator.h"

namespace nostos {

/// One rank's end of GPUs whose kernels reach all of their memory, for ranks with a GPU each. Ranks can meet on one
/// GPU, too, for tests, as long as nothing that waits stands in one of its queues before what it waits for: branches of
/// several ranks' recorded steps may share one, and so may more streams than the GPU has queues. Used by one host
/// thread.
class PeerMemory {
 public:
  /// As abort(): what others still wait for comes to an end. All that was enqueued is done, or the peers are gone.
  virtual ~PeerMemory() = default;

  /// Enqueues on `stream` a meeting with the GPUs of `members`, which must enqueue theirs: what follows sees what they
  /// have written before. A Graph can record it, and is destroyed before this.
  virtual void fence(std::span<const int> members, Stream& stream) = 0;

  /// Ends the meetings under way and to come on this GPU, whether or not the peers come.
  virtual void abort() noexcept = 0;
};

/// Lets the kernels of `gpu` reach the memory of the GPUs of all ranks of `host`, and theirs its own; every rank calls
/// it.
/// \return null, on all ranks, if there is one rank, one that is another process, or a GPU that another cannot reach.
/// \throws Error device, peer_failed
std::unique_ptr<PeerMemory> open_peer_memory(Communicator& host, Device gpu);

}  // namespace nostos
