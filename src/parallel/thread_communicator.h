// Owns ranks as threads of this process.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace nostos {

/// Runs `body` once a rank, each on a thread of its own (rank 0 on the caller's), and returns when all have ended.
/// Messages are copied once, straight from the sender's buffer to the receiver's, by whichever of the two is free;
/// waiting ranks sleep. Ranks that share a GPU exchange its memory likewise (see RankDevice::order_with()): the copy is
/// enqueued, and no rank waits for the GPU.
/// A rank that throws, or that returns while another still waits for it, aborts the others.
/// \throws what the first failing rank threw: the cause, not the peer_failed errors that follow from it.
void run_thread_ranks(int world, const std::function<void(Communicator&)>& body,
                      const CommunicatorOptions& options = {});

}  // namespace nostos
