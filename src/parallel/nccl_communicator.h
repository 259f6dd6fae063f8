// Owns ranks that have a GPU each: which messages travel between GPUs and which between hosts, and how both fail.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string_view>

#include "device/buffer.h"
#include "device/context.h"
#include "device/stream.h"
#include "parallel/communicator.h"
#include "parallel/nccl_link.h"
#include "parallel/peer_memory.h"

namespace nostos {

/// The ranks of `host`, each with a GPU of its own. Buffers on the GPU travel by NCCL on a stream of their own, ordered
/// by events with the stream of order_with(): no call waits for the GPU but synchronize(), and a Graph can record an
/// exchange. Buffers on the host, and empty messages, travel through `host`. Both ends of a message are on GPUs or on
/// hosts. Exchanges of GPU buffers run one after the other in the order of the calls: those that overlap must have been
/// started in an order that all their ranks agree on.
///
/// A call of CUDA may wait for a GPU, of a peer too, while it keeps other threads of the process from calling CUDA (to
/// free memory, say). If that GPU waits for a rank that has yet to enqueue its part of an exchange, all stand still. So
/// the hosts that make an exchange meet before any of them enqueues it, and again when all have: between the two
/// they call CUDA for nothing else.
///
/// Where all ranks are threads of one process, and each GPU reaches all others' memory, kernels may write there, too,
/// in the order that fence() gives.
///
/// A failure of any rank ends the messages under way on this GPU, so that freeing their buffers does not wait for ever.
/// It is noticed wherever this rank starts an exchange, waits in synchronize() or calls check_peers(); a rank that
/// fails by itself calls abandon_work() or abort() before the buffers of its exchanges under way are freed.
class NcclCommunicator final : public Communicator, public RankDevice {
 public:
  /// Connects the GPUs; every rank of `host` calls it. \param host outlives this; its time-out is that of `options`.
  /// \throws Error device without NCCL or such a GPU; peer_failed if a rank fails or stays away
  NcclCommunicator(Communicator& host, Device gpu, const CommunicatorOptions& options = {});
  /// The same over any link. \param memory may be null
  NcclCommunicator(Communicator& host, std::unique_ptr<PeerMemory> memory, std::unique_ptr<GpuLink> link,
                   const CommunicatorOptions& options = {});
  ~NcclCommunicator() override;

  /// From now on the ranks, which stay the same, meet on `host`. The one before may be gone.
  void meet_on(Communicator& host);
  /// Ends the link whether or not the peers do, while nothing is under way; the host may be gone. All that is left to
  /// do is to destroy this.
  void leave() noexcept { end_links(); }

  RankDevice& device() override { return *this; }
  void order_with(Stream& stream) override { compute_ = &stream; }
  bool can_record() const override { return true; }
  /// Returns once the work of all ranks is done.
  void synchronize(Context& ctx, const char* reason) override;
  void abandon_work(Context& ctx) noexcept override;
  void abort(std::string_view reason) noexcept override;
  void enqueue_together(const std::function<void()>& enqueue) override;
  void check_peers() override;
  bool shares_memory(Device device) const override { return memory_ != nullptr && device == link_->device(); }
  WriterBoard* writers() override { return host_->device().writers(); }

 protected:
  void start_fence(const char* name, std::span<const int> members, std::span<const int> callers, ConstByteView own,
                   ByteView all) override;
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int> callers) override;
  bool reaches(Device device) const override;
  void copy(ByteView to, ConstByteView from) override;

 private:
  class Exchange;

  template <class Message>
  bool between_gpus(const Message& message) const {
    return message.bytes.bytes > 0 && message.bytes.device == link_->device();
  }
  void connect();
  /// Ends what is under way on this GPU and waits for others.
  void end_links() noexcept;
  void meet(const char* name, std::span<const int> callers);
  void await_link();
  void wait_together(const char* name, const std::function<bool()>& is_done);
  /// Runs `body`; what it throws ends the link, and is thrown again or gives way to what the ranks say is the cause.
  template <class Body>
  void guarded(const Body& body);
  [[noreturn]] void end_with(const std::exception_ptr& error);

  Communicator* host_;
  CommunicatorOptions options_;
  Stream communication_;
  std::unique_ptr<PeerMemory> memory_;  // or null
  std::unique_ptr<GpuLink> link_;
  Stream* compute_ = nullptr;
  int exceptions_;
};

}  // namespace nostos
