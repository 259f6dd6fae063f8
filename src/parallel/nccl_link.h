// Owns the seam to NCCL, without its header: what carries messages between GPUs. A build without NCCL links a stand-in.
#pragma once

#include <memory>
#include <span>

#include "device/device.h"
#include "device/stream.h"
#include "parallel/communicator.h"

namespace nostos {

/// One rank's end of GPUs that are connected to each other. Used by one host thread.
class GpuLink {
 public:
  virtual ~GpuLink() = default;

  /// The GPU whose buffers travel.
  virtual Device device() const = 0;

  /// \return whether what was called last is done on the host: the ranks are connected, or the messages enqueued.
  /// Nothing else but abort() may be called before. \throws Error peer_failed or internal if the connection has failed
  virtual bool is_ready() = 0;

  /// Begins to enqueue all messages on `stream`, as one exchange: none empty, none to this rank itself.
  /// \throws as is_ready()
  virtual void send_receive(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, Stream& stream) = 0;

  /// Enqueues a copy within this GPU, or between it and pinned memory.
  virtual void copy(ByteView to, ConstByteView from, Stream& stream) = 0;

  /// Begins to end the messages under way, on the GPU too, whether or not the peers come; afterwards there is no link.
  /// May be called several times. A Graph with messages is destroyed before the link, aborted or not.
  virtual void abort() noexcept = 0;
};

/// \return whether this build has NCCL.
bool built_with_nccl();

/// \return whether a link that was aborted is still ending, on a thread of its own: the process must then end by
/// _Exit(), so that this thread does not meet what is left of the libraries.
bool is_ending_a_link();

/// Begins to connect the GPU `gpu` with those of all ranks of `host`; every rank calls it, each with a GPU of its own.
/// \return the link, to be polled by is_ready().
/// \throws Error device in a build without NCCL, or if there is no such GPU; peer_failed
std::unique_ptr<GpuLink> connect_gpus(Communicator& host, Device gpu);

}  // namespace nostos
