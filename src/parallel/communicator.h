// Owns the one interface through which ranks exchange bytes; the code above never asks which backend serves it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/context.h"
#include "device/device.h"
#include "device/stream.h"
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

  /// The bytes of rank `root` end on every rank.
  [[nodiscard]] Pending broadcast(ByteView buffer, int root);

  /// Replaces every element by its sum over the ranks, added in rank order, so that all ranks hold the same bits in
  /// every run. Host memory; int64 wraps around. For short vectors: every rank receives all of them.
  void all_reduce_sum(std::span<double> values);
  void all_reduce_sum(std::span<int64_t> values);

  /// Returns once every rank has called it.
  void barrier();

  /// Orders exchanges of this rank's device buffers with the work on `stream`, which outlives the communicator: they
  /// begin after what was enqueued before the call, and what is enqueued after wait() comes after them. Without a
  /// stream only host buffers can be exchanged.
  virtual void order_with(Stream& stream) { static_cast<void>(stream); }

  /// \return whether a Graph can record exchanges of device buffers: the host takes no part in them. One rank has none.
  virtual bool can_record() const { return world_ == 1; }

  /// Context::synchronize() for work that exchanges with the other ranks. Every rank calls it, and where GPUs wait for one
  /// another it ends with an error if a rank never comes. \throws Error peer_failed, internal
  virtual void synchronize(Context& ctx, const char* reason) { ctx.synchronize(reason); }

  /// Context::abandon_work() likewise: ends what would wait for other ranks for ever. What was recorded of exchanges is
  /// gone before. Afterwards the communicator serves no exchange of device buffers.
  virtual void abandon_work(Context& ctx) noexcept { ctx.abandon_work(); }

  /// Runs `enqueue`, which enqueues exchanges that were recorded. Every rank calls it, and returns when all have enqueued.
  /// \throws Error peer_failed, what `enqueue` throws
  virtual void enqueue_together(const std::function<void()>& enqueue) { enqueue(); }

  /// \return whether what runs on this rank's device can write to memory of the others' devices at the address that it has
  /// there; the same on all ranks.
  virtual bool shares_memory(Device device) const { return static_cast<void>(device), false; }

  /// Orders what the ranks' streams (of order_with()) write into one another's memory, where they share it: what is
  /// enqueued after the call comes after all that any rank had enqueued before, and sees what that wrote. Every rank
  /// calls it; none waits for its device.
  /// \param written what this rank has written to others since the last, which counts as sent. \throws Error peer_failed
  void fence(const char* name, Traffic written = {});
  /// The same; besides, the hosts tell one another where memory lies. \return `own` of every rank.
  template <class T>
  std::vector<T> fence_and_tell(const char* name, const T& own) {
    std::vector<T> all(static_cast<size_t>(world_), own);
    if (world_ > 1) start_fence(name, everyone_, everyone_, host_bytes(std::span(&own, 1)), host_bytes(std::span(all)));
    return all;
  }

  /// Says whether this rank's device has work that may write to the others' memory, which they free only when it is done:
  /// after a failure they call wait_for_writers().
  virtual void set_writing(bool writing) { static_cast<void>(writing); }
  /// Returns once no rank is writing, or after ten seconds.
  virtual void wait_for_writers() noexcept {}

  /// To be called again and again by a rank that polls for its device's work, which may wait for other ranks. Any rank may
  /// call it alone. \throws Error peer_failed
  virtual void check_peers() { exchange("a look at the other ranks", {}, {}).wait(); }

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
/// halves. Shares the parent's abort, its waits for devices and recorded exchanges, which are for all of the parent's ranks,
/// and its order of messages: two ranks that meet in several groups exchange in the same order in all of them.
class GroupCommunicator final : public Communicator {
 public:
  enum class Pace {
    own,    ///< the group goes its own way
    shared  ///< every rank of the parent belongs to such a group, and all make the same calls in the same order
  };
  /// \param ranks parent ranks, each once, the caller's among them. \throws Error internal otherwise
  GroupCommunicator(Communicator& parent, std::vector<int> ranks, Pace pace = Pace::own);
  void abort(std::string_view reason) noexcept override { parent_.abort(reason); }
  bool can_record() const override { return parent_.can_record(); }
  void synchronize(Context& ctx, const char* reason) override { parent_.synchronize(ctx, reason); }
  void abandon_work(Context& ctx) noexcept override { parent_.abandon_work(ctx); }
  void enqueue_together(const std::function<void()>& enqueue) override { parent_.enqueue_together(enqueue); }
  void check_peers() override { parent_.check_peers(); }
  bool shares_memory(Device device) const override { return parent_.shares_memory(device); }

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

/// The one rank of a world of one: every exchange is with itself.
class SelfCommunicator final : public Communicator {
 public:
  SelfCommunicator() : Communicator(0, 1) {}
  void abort(std::string_view reason) noexcept override;

 protected:
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int> callers) override;

 private:
  std::string reason_;
  bool aborted_ = false;
};

/// Why a communicator no longer works.
struct CommunicatorFailure {
  int rank = 0;  ///< the rank at fault
  std::string reason;
};

/// Throws Error peer_failed with the failing rank and its reason, as rank `self` tells it.
[[noreturn]] void throw_peer_failed(const CommunicatorFailure& failure, int self);

/// \return the message of `error`, for abort().
std::string describe(const std::exception_ptr& error);

/// \return "rank 3" or "ranks 1, 3".
std::string rank_list(std::span<const int> ranks);

}  // namespace nostos
