// Owns the one interface through which ranks exchange bytes; the code above never asks which backend serves it. What
// ranks do together with their devices stands beside it, in RankDevice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/context.h"
#include "device/device.h"
#include "parallel/rank_device.h"
#include "tensor/tensor.h"

namespace nostos {

/// Where one peer's bytes lie in a buffer.
struct Part {
  size_t offset_bytes = 0;
  size_t bytes = 0;
};

/// Bytes owned by somebody else, and the device that holds them. `Byte` is std::byte or const std::byte.
template <class Byte>
struct BasicByteView {
  Byte* data = nullptr;
  size_t bytes = 0;
  Device device;

  /// A writable view serves wherever a read-only one is wanted.
  operator BasicByteView<const std::byte>() const { return {data, bytes, device}; }
  /// \return the bytes of `part`. \throws Error internal if it reaches beyond the end.
  BasicByteView part(Part part) const;
};

using ByteView = BasicByteView<std::byte>;
using ConstByteView = BasicByteView<const std::byte>;

/// \return the bytes of host elements.
template <class T>
ByteView host_bytes(std::span<T> elements) {
  return {reinterpret_cast<std::byte*>(elements.data()), elements.size_bytes(), Device{}};
}
template <class T>
ConstByteView host_bytes(std::span<const T> elements) {
  return {reinterpret_cast<const std::byte*>(elements.data()), elements.size_bytes(), Device{}};
}

/// \return the bytes of a tensor on the device of `ctx`.
inline ByteView device_bytes(const Context& ctx, View view) {
  return {view.bytes(), view.size_in_bytes(), ctx.device()};
}
inline ConstByteView device_bytes(const Context& ctx, ConstView view) {
  return {view.bytes(), view.size_in_bytes(), ctx.device()};
}

/// One message to, or from, one peer. The k-th send from a rank to a peer meets the peer's k-th receive from that rank.
struct SendTo {
  int peer;
  ConstByteView bytes;
};
struct ReceiveFrom {
  int peer;
  ByteView bytes;
};

struct CommunicatorOptions {
  /// A wait during which nothing arrives for so long fails, naming the ranks that are missing; 0 waits for ever.
  double timeout_s = 0;
  /// GPUs of one process write to one another's memory where each reaches all others; else NCCL carries everything.
  bool peer_memory = true;
};

/// What one rank has sent to others so far.
struct Traffic {
  uint64_t bytes = 0;
  uint64_t messages = 0;
};

/// A backend's exchange under way. Destroying it before wait() has returned withdraws it: no rank touches its buffers
/// afterwards, and it is lost for the peers.
class Operation {
 public:
  virtual ~Operation() = default;
  /// Returns once everything has been sent and received. \throws Error peer_failed
  virtual void wait() = 0;
};

class Communicator;

/// The caller's end of an exchange under way; move-only, outlived by its communicator and its buffers.
class Pending {
 public:
  Pending() = default;
  Pending(Communicator& communicator, std::unique_ptr<Operation> operation);
  /// An exchange that nobody waits for is withdrawn, and since its peers cannot end it the communicator is aborted,
  /// unless an exception passes through: then whoever catches it aborts with the true reason.
  ~Pending();
  Pending(Pending&& other) noexcept = default;
  Pending& operator=(Pending&&) = delete;

  /// Afterwards the sent buffers may be written and the received ones read (on a GPU: by what is enqueued next).
  /// Several exchanges under way may be waited for in any order. \throws Error peer_failed
  void wait();

 private:
  Communicator* communicator_ = nullptr;
  std::unique_ptr<Operation> operation_;
  int exceptions_ = 0;
};

/// One rank's end of `world` ranks. Used by one host thread; every rank makes the same calls in the same order.
/// Buffers stay untouched by the caller from the call to the end of wait(); they may not overlap unless said.
/// Every function but abort() throws Error peer_failed once any rank has aborted, naming that rank and its reason.
class Communicator {
 public:
  Communicator(int rank, int world);
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int world() const { return world_; }
  Traffic traffic() const { return traffic_; }

  /// The primitive behind all others: any messages between any ranks, zero bytes and this rank itself included. A
  /// message to this rank itself is copied at once; the same address on both ends is left alone. `name` must outlive
  /// the exchange.
  /// \throws Error device if the backend cannot reach a buffer's device
  /// \throws Error internal if two ends of a message differ in size (where the backend sees it)
  [[nodiscard]] Pending exchange(const char* name, std::span<const SendTo> sends,
                                 std::span<const ReceiveFrom> receives);

  /// Every rank p's `send` ends as receive_parts[p] of every rank's `receive`. `send` may be that very part.
  [[nodiscard]] Pending all_gather(ConstByteView send, ByteView receive, std::span<const Part> receive_parts);

  /// \return `own` of every rank: plain bytes of the host.
  template <class T>
  std::vector<T> gather(const T& own) {
    std::vector<T> all(static_cast<size_t>(world_), own);
    const Messages messages = to_members(everyone_, host_bytes(std::span(&own, 1)), host_bytes(std::span(all)));
    exchange("all_gather", messages.sends, messages.receives).wait();
    return all;
  }

  /// The bytes of rank `root` end on every rank.
  [[nodiscard]] Pending broadcast(ByteView buffer, int root);

  /// Replaces every element by its sum over the ranks, added in rank order, so that all ranks hold the same bits in
  /// every run. Host memory; int64 wraps around. For short vectors: every rank receives all of them.
  void all_reduce_sum(std::span<double> values);
  void all_reduce_sum(std::span<int64_t> values);

  /// Returns once every rank has called it.
  void barrier();

  /// \return what these ranks do together with their devices. One of a group is that of all its parent's ranks.
  virtual RankDevice& device() = 0;

  /// Orders what the ranks' streams (RankDevice::order_with()) write into one another's memory, where they share it:
  /// what is enqueued after the call comes after all that any rank had enqueued before, and sees what that wrote. Every
  /// rank calls it; none waits for its device.
  /// \param written what this rank has written to others since the last, which counts as sent. \throws Error
  /// peer_failed
  void fence(const char* name, Traffic written = {});
  /// The same; besides, the hosts tell one another where memory lies. \return `own` of every rank.
  template <class T>
  std::vector<T> fence_and_tell(const char* name, const T& own) {
    std::vector<T> all(static_cast<size_t>(world_), own);
    if (world_ > 1) start_fence(name, everyone_, everyone_, host_bytes(std::span(&own, 1)), host_bytes(std::span(all)));
    return all;
  }

  /// Makes every rank's pending and later calls throw Error peer_failed with this rank and `reason`. The first of
  /// several aborts counts.
  virtual void abort(std::string_view reason) noexcept = 0;

 protected:
  /// \return the numbers of all ranks.
  std::span<const int> everyone() const { return everyone_; }
  /// What each of `members` sends to all others, so that `all` has the bytes of each in turn.
  struct Messages {
    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
  };
  Messages to_members(std::span<const int> members, ConstByteView own, ByteView all) const;
  /// Aborts with the exception that is being handled. After that, the other ranks do not begin to write any more.
  void abort_with_cause() noexcept;
  /// Starts messages to and from other ranks; peers and sizes are checked, devices are reachable. May return null if
  /// there is nothing to wait for. \param callers all ranks that make this call, those without a message too
  virtual std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                           std::span<const ReceiveFrom> receives, std::span<const int> callers) = 0;
  /// fence() among `members`, this rank among them. \param callers as start()
  /// \param own, all this rank's bytes, and room for those of each member in turn; both may be empty
  virtual void start_fence(const char* name, std::span<const int> members, std::span<const int> callers,
                           ConstByteView own, ByteView all);
  /// Adds to traffic() what fence() is told.
  virtual void count(Traffic written);
  /// \return whether buffers on `device` can be exchanged; by default those of the host.
  virtual bool reaches(Device device) const;
  /// Copies a message of this rank to itself, in order with start().
  virtual void copy(ByteView to, ConstByteView from);

 private:
  friend class GroupCommunicator;

  Pending exchange_among(std::span<const int> callers, const char* name, std::span<const SendTo> sends,
                         std::span<const ReceiveFrom> receives);
  template <class T>
  void reduce(std::span<T> values);

  int rank_;
  int world_;
  std::vector<int> everyone_;
  Traffic traffic_;
};

/// Some ranks of a communicator as a world of their own, numbered in the order of `ranks`: rings, head groups, guidance
/// halves. Shares the parent's abort and device, which are for all of the parent's ranks, and its order of messages:
/// two ranks that meet in several groups exchange in the same order in all of them.
class GroupCommunicator final : public Communicator {
 public:
  enum class Pace {
    own,    ///< the group goes its own way
    shared  ///< every rank of the parent belongs to such a group, and all make the same calls in the same order
  };
  /// \param ranks parent ranks, each once, the caller's among them. \throws Error internal otherwise
  GroupCommunicator(Communicator& parent, std::vector<int> ranks, Pace pace = Pace::own);
  void abort(std::string_view reason) noexcept override { parent_.abort(reason); }
  RankDevice& device() override { return parent_.device(); }

 protected:
  void start_fence(const char* name, std::span<const int> members, std::span<const int> callers, ConstByteView own,
                   ByteView all) override;
  void count(Traffic written) override;
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int> callers) override;
  bool reaches(Device) const override { return true; }  // the parent decides
  void copy(ByteView to, ConstByteView from) override;

 private:
  std::vector<int> in_parent(std::span<const int> ranks) const;
  /// \return all ranks of the parent that make a call that `callers` of this group make.
  std::vector<int> parent_callers(std::span<const int> callers) const;

  Communicator& parent_;
  std::vector<int> ranks_;
  Pace pace_;
};

/// \return the message of `error`, for abort().
std::string describe(const std::exception_ptr& error);

}  // namespace nostos
