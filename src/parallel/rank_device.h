// Owns what the ranks of a communicator do together with their devices, beside the messages: the order of streams,
// recorded work, shared memory, and how all of it ends when a rank fails.
#pragma once

#include <functional>

#include "device/context.h"
#include "device/device.h"
#include "device/stream.h"

namespace nostos {

class Communicator;

/// Says which ranks may be writing to one another's memory, which they free only when nobody is: for ranks of one
/// process.
class WriterBoard {
 public:
  virtual ~WriterBoard() = default;
  /// Says whether this rank's device has work that may write to the others' memory.
  virtual void set_writing(bool writing) = 0;
  /// Returns once no rank is writing, or after ten seconds.
  virtual void wait_for_writers() noexcept = 0;
};

/// One rank's end of the devices of all ranks. A group of ranks has its parent's: what it does is for all of the
/// parent's.
class RankDevice {
 public:
  virtual ~RankDevice() = default;

  /// Orders exchanges of this rank's device buffers with the work on `stream`, which outlives the communicator: they
  /// begin after what was enqueued before the call, and what is enqueued after wait() comes after them. Without a
  /// stream only host buffers can be exchanged.
  virtual void order_with(Stream& stream) = 0;

  /// \return whether a Graph can record exchanges of device buffers: the host takes no part in them. One rank has none.
  virtual bool can_record() const = 0;

  /// Context::synchronize() for work that exchanges with the other ranks. Every rank calls it, and where GPUs wait for
  /// one another it ends with an error if a rank never comes. \throws Error peer_failed, internal
  virtual void synchronize(Context& ctx, const char* reason) = 0;

  /// Context::abandon_work() likewise: ends what would wait for other ranks for ever. What was recorded of exchanges is
  /// gone before. Afterwards the communicator serves no exchange of device buffers.
  virtual void abandon_work(Context& ctx) noexcept = 0;

  /// Runs `enqueue`, which enqueues exchanges that were recorded. Every rank calls it, and returns when all have
  /// enqueued.
  /// \throws Error peer_failed, what `enqueue` throws
  virtual void enqueue_together(const std::function<void()>& enqueue) = 0;

  /// To be called again and again by a rank that polls for its device's work, which may wait for other ranks. Any rank
  /// may call it alone. \throws Error peer_failed
  virtual void check_peers() = 0;

  /// \return whether what runs on this rank's device can write to memory of the others' devices at the address that it
  /// has there; the same on all ranks.
  virtual bool shares_memory(Device device) const = 0;

  /// \return what ranks that share memory go by; null where none can.
  virtual WriterBoard* writers() = 0;
};

/// Of ranks whose devices do not wait for one another: only host buffers are exchanged, by hosts.
class HostRankDevice : public RankDevice {
 public:
  /// \param messages of the same ranks, outlives this
  explicit HostRankDevice(Communicator& messages) : messages_(messages) {}

  void order_with(Stream&) override {}  // no message is of a device buffer
  bool can_record() const override;
  void synchronize(Context& ctx, const char* reason) override { ctx.synchronize(reason); }
  void abandon_work(Context& ctx) noexcept override { ctx.abandon_work(); }
  void enqueue_together(const std::function<void()>& enqueue) override { enqueue(); }
  void check_peers() override;
  bool shares_memory(Device) const override { return false; }
  WriterBoard* writers() override { return nullptr; }

 private:
  Communicator& messages_;
};

}  // namespace nostos
