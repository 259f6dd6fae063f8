// Owns a link between ranks that share a GPU as if each had its own: NCCL refuses such ranks.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "parallel/nccl_link.h"
#include "parallel/peer_memory.h"

namespace nostos::test {

/// Where ranks that are threads find each other's buffers.
struct Mail {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::pair<int, int>, std::deque<const std::byte*>> sent;  ///< by sender and receiver
};

/// Messages are copies on the receiver's stream, between two meetings of the GPU's streams: all are there, all are
/// taken.
class MeetingLink final : public GpuLink {
 public:
  /// \param memory of its own, not null
  MeetingLink(Mail& mail, std::unique_ptr<PeerMemory> memory, int rank, Device gpu)
      : mail_(mail), memory_(std::move(memory)), rank_(rank), gpu_(gpu) {}

  Device device() const override { return gpu_; }
  bool is_ready() override { return true; }
  void send_receive(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, Stream& stream) override;
  void copy(ByteView to, ConstByteView from, Stream& stream) override;
  void abort() noexcept override { memory_->abort(); }

 private:
  Mail& mail_;
  std::unique_ptr<PeerMemory> memory_;
  int rank_;
  Device gpu_;
};

}  // namespace nostos::test
