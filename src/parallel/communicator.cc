// Implements the checks of every exchange and the collectives made of it, for all backends.
#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace nostos {
namespace {

std::vector<SendTo> to_everyone(int world, ConstByteView bytes) {
  std::vector<SendTo> sends;
  for (int peer = 0; peer < world; ++peer) sends.push_back({peer, bytes});
  return sends;
}

}  // namespace

template <class Byte>
BasicByteView<Byte> BasicByteView<Byte>::part(Part part) const {
  require(part.offset_bytes <= bytes && part.bytes <= bytes - part.offset_bytes, ErrorKind::internal,
          "bytes [{}, +{}) are outside a buffer of {} bytes", part.offset_bytes, part.bytes, bytes);
  return {data == nullptr ? nullptr : data + part.offset_bytes, part.bytes, device};
}

template struct BasicByteView<std::byte>;
template struct BasicByteView<const std::byte>;

bool HostRankDevice::can_record() const { return messages_.world() == 1; }

void HostRankDevice::check_peers() { messages_.exchange("a look at the other ranks", {}, {}).wait(); }

Communicator::Communicator(int rank, int world)
    : rank_(rank), world_(world), everyone_(static_cast<size_t>(std::max(world, 0))) {
  std::iota(everyone_.begin(), everyone_.end(), 0);
}

Pending::Pending(Communicator& communicator, std::unique_ptr<Operation> operation)
    : communicator_(&communicator), operation_(std::move(operation)), exceptions_(std::uncaught_exceptions()) {}

Pending::~Pending() {
  if (operation_ != nullptr && std::uncaught_exceptions() == exceptions_)
    communicator_->abort("it dropped an exchange without waiting for it");
}

void Pending::wait() {
  if (operation_ == nullptr) return;
  const std::unique_ptr<Operation> operation = std::move(operation_);
  operation->wait();
}

Pending Communicator::exchange(const char* name, std::span<const SendTo> sends, std::span<const ReceiveFrom> receives) {
  return exchange_among(everyone_, name, sends, receives);
}

Pending Communicator::exchange_among(std::span<const int> callers, const char* name, std::span<const SendTo> sends,
                                     std::span<const ReceiveFrom> receives) {
  const auto check_end = [&](int peer, Device device) {
    require(peer >= 0 && peer < world_, ErrorKind::internal, "{} names rank {} of a world of {}", name, peer, world_);
    require(reaches(device), ErrorKind::device, "this communicator cannot exchange buffers on {} ({})",
            to_string(device), name);
  };
  std::vector<SendTo> sends_to_others;
  std::vector<ReceiveFrom> receives_from_others;
  std::vector<ConstByteView> own;
  for (const SendTo& send : sends) {
    check_end(send.peer, send.bytes.device);
    if (send.peer == rank_) {
      own.push_back(send.bytes);
    } else {
      sends_to_others.push_back(send);
      traffic_.bytes += send.bytes.bytes;
      ++traffic_.messages;
    }
  }
  size_t own_received = 0;
  for (const ReceiveFrom& receive : receives) {
    check_end(receive.peer, receive.bytes.device);
    if (receive.peer != rank_) {
      receives_from_others.push_back(receive);
      continue;
    }
    require(own_received < own.size() && own[own_received].bytes == receive.bytes.bytes, ErrorKind::internal,
            "rank {} expects {} bytes from itself in {}, which it does not send", rank_, receive.bytes.bytes, name);
    const ConstByteView& sent = own[own_received++];
    if (receive.bytes.bytes > 0 && sent.data != receive.bytes.data) copy(receive.bytes, sent);
  }
  require(own_received == own.size(), ErrorKind::internal, "rank {} sends itself more than it receives in {}", rank_,
          name);
  return {*this, start(name, sends_to_others, receives_from_others, callers)};
}

Pending Communicator::all_gather(ConstByteView send, ByteView receive, std::span<const Part> receive_parts) {
  check(std::ssize(receive_parts) == world_, "all_gather takes one part a rank");
  std::vector<ReceiveFrom> receives;
  for (const int peer : everyone_) receives.push_back({peer, receive.part(receive_parts[static_cast<size_t>(peer)])});
  return exchange("all_gather", to_everyone(world_, send), receives);
}

Pending Communicator::broadcast(ByteView buffer, int root) {
  if (rank_ != root) return exchange("broadcast", {}, std::vector<ReceiveFrom>{{root, buffer}});
  std::vector<SendTo> sends = to_everyone(world_, buffer);
  std::erase_if(sends, [root](const SendTo& send) { return send.peer == root; });
  return exchange("broadcast", sends, {});
}

template <class T>
void Communicator::reduce(std::span<T> values) {
  std::vector<T> gathered(values.size() * static_cast<size_t>(world_));
  std::ranges::copy(values, gathered.begin() + rank_ * std::ssize(values));
  const Messages messages = to_members(everyone_, host_bytes(values), host_bytes(std::span(gathered)));
  exchange("all_reduce", messages.sends, messages.receives).wait();
  for (size_t i = 0; i < values.size(); ++i) {
    T sum = gathered[i];
    for (int peer = 1; peer < world_; ++peer) sum += gathered[peer * values.size() + i];
    values[i] = sum;
  }
}

void Communicator::all_reduce_sum(std::span<double> values) { reduce(values); }

void Communicator::all_reduce_sum(std::span<int64_t> values) {
  // Unsigned sums wrap around; signed ones are undefined beyond the range.
  reduce(std::span(reinterpret_cast<uint64_t*>(values.data()), values.size()));
}

void Communicator::barrier() {
  const Messages messages = to_members(everyone_, {}, {});
  exchange("barrier", messages.sends, messages.receives).wait();
}

void Communicator::fence(const char* name, Traffic written) {
  count(written);
  if (world_ > 1) start_fence(name, everyone_, everyone_, {}, {});
}

void Communicator::count(Traffic written) {
  traffic_.bytes += written.bytes;
  traffic_.messages += written.messages;
}

Communicator::Messages Communicator::to_members(std::span<const int> members, ConstByteView own, ByteView all) const {
  Messages messages;
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i] == rank_) continue;
    messages.sends.push_back({members[i], own});
    messages.receives.push_back({members[i], all.part({i * own.bytes, own.bytes})});
  }
  return messages;
}

void Communicator::abort_with_cause() noexcept {
  try {
    const std::exception_ptr cause = std::current_exception();
    abort(cause == nullptr ? "it gave up its work" : describe(cause));
  } catch (const std::exception&) {
    abort("it failed");  // no memory for the text
  }
}

void Communicator::start_fence(const char* name, std::span<const int>, std::span<const int>, ConstByteView, ByteView) {
  fail(ErrorKind::internal, "the ranks share no memory to be ordered ({})", name);
}

bool Communicator::reaches(Device device) const { return device.kind == DeviceKind::cpu; }

void Communicator::copy(ByteView to, ConstByteView from) { std::memcpy(to.data, from.data, from.bytes); }

GroupCommunicator::GroupCommunicator(Communicator& parent, std::vector<int> ranks, Pace pace)
    : Communicator(static_cast<int>(std::find(ranks.begin(), ranks.end(), parent.rank()) - ranks.begin()),
                   static_cast<int>(ranks.size())),
      parent_(parent),
      ranks_(std::move(ranks)),
      pace_(pace) {
  check(rank() < world(), "a rank makes the groups that it belongs to");
  std::vector<int> sorted = ranks_;
  std::sort(sorted.begin(), sorted.end());
  check(sorted.front() >= 0 && sorted.back() < parent.world() &&
            std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(),
        "a group lists ranks of its parent, each once");
}

std::unique_ptr<Operation> GroupCommunicator::start(const char* name, std::span<const SendTo> sends,
                                                    std::span<const ReceiveFrom> receives,
                                                    std::span<const int> callers) {
  class ParentOperation final : public Operation {
   public:
    explicit ParentOperation(Pending pending) : pending_(std::move(pending)) {}
    void wait() override { pending_.wait(); }

   private:
    Pending pending_;
  };
  if (world() == 1) return nullptr;  // so are all groups of a shared pace: nobody has a message
  std::vector<SendTo> parent_sends(sends.begin(), sends.end());
  for (SendTo& send : parent_sends) send.peer = ranks_[send.peer];
  std::vector<ReceiveFrom> parent_receives(receives.begin(), receives.end());
  for (ReceiveFrom& receive : parent_receives) receive.peer = ranks_[receive.peer];
  return std::make_unique<ParentOperation>(
      parent_.exchange_among(parent_callers(callers), name, parent_sends, parent_receives));
}

void GroupCommunicator::start_fence(const char* name, std::span<const int> members, std::span<const int> callers,
                                    ConstByteView own, ByteView all) {
  parent_.start_fence(name, in_parent(members), parent_callers(callers), own, all);
}

void GroupCommunicator::count(Traffic written) {
  Communicator::count(written);
  parent_.count(written);
}

std::vector<int> GroupCommunicator::in_parent(std::span<const int> ranks) const {
  std::vector<int> of_parent;
  for (const int rank : ranks) of_parent.push_back(ranks_[rank]);
  return of_parent;
}

std::vector<int> GroupCommunicator::parent_callers(std::span<const int> callers) const {
  return pace_ == Pace::own ? in_parent(callers) : parent_.everyone_;
}

void GroupCommunicator::copy(ByteView to, ConstByteView from) {
  // Only the parent knows how to copy on its devices.
  for (const Device device : {to.device, from.device}) {
    require(parent_.reaches(device), ErrorKind::device, "this communicator cannot copy buffers on {}",
            to_string(device));
  }
  parent_.copy(to, from);
}

std::string describe(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "it threw something that is no std::exception";
  }
}

}  // namespace nostos
