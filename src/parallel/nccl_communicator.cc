// Implements ranks with a GPU each: the split of an exchange, the order of streams, and waits that watch the peers.
#include "parallel/nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "parallel/waiting.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kCauseTime{1000};  // for the ranks to name the cause of a broken link
constexpr std::chrono::milliseconds kDrainTime{2000};  // for the work of a rank that fails to end by itself

Backoff poll_pauses() { return {1000, 50}; }

/// An empty message needs no GPU at either end.
template <class Message>
Message on_host(Message message) {
  if (message.bytes.bytes == 0) message.bytes = {};
  return message;
}

}  // namespace

/// The messages between hosts, and the event behind those between GPUs.
class NcclCommunicator::Exchange final : public Operation {
 public:
  Exchange(NcclCommunicator& communicator, Pending between_hosts)
      : communicator_(communicator), between_hosts_(std::move(between_hosts)) {}
  ~Exchange() override {
    if (!waited_ && received_) communicator_.end_links();  // NCCL cannot take messages back
  }

  void mark_received() {
    received_.emplace(communicator_.link_->device());
    received_->record(communicator_.communication_);
  }

  void wait() override {
    communicator_.guarded([this] { between_hosts_.wait(); });
    if (received_) communicator_.compute_->wait(*received_);
    waited_ = true;
  }

 private:
  NcclCommunicator& communicator_;
  Pending between_hosts_;
  std::optional<Event> received_;
  bool waited_ = false;
};

NcclCommunicator::NcclCommunicator(Communicator& host, Device gpu, const CommunicatorOptions& options)
    // Braces: in this order, for what NCCL begins goes on beside what follows.
    : NcclCommunicator{host, options.peer_memory ? open_peer_memory(host, gpu) : nullptr, connect_gpus(host, gpu),
                       options} {
  if (rank() == 0)
    log_info("{} GPUs exchange by {}", world(), memory_ ? "writing to one another's memory" : "NCCL's messages");
}

NcclCommunicator::NcclCommunicator(Communicator& host, std::unique_ptr<PeerMemory> memory,
                                   std::unique_ptr<GpuLink> link, const CommunicatorOptions& options)
    : Communicator(host.rank(), host.world()),
      host_(&host),
      options_(options),
      communication_(link->device()),
      memory_(std::move(memory)),
      link_(std::move(link)),
      exceptions_(std::uncaught_exceptions()) {
  check(memory_ == nullptr || writers() != nullptr, "ranks that share memory tell one another when they write");
  connect();
}

NcclCommunicator::~NcclCommunicator() {
  if (std::uncaught_exceptions() > exceptions_) end_links();  // the peers do not end their part either
}

void NcclCommunicator::end_links() noexcept {
  link_->abort();
  if (memory_) memory_->abort();
}

/// NCCL opens the way to a peer with the first message: all ways are opened here, so that no later exchange makes the
/// host wait, and none that a graph captures.
void NcclCommunicator::connect() {
  guarded([this] { wait_together("the connection of the GPUs", [this] { return link_->is_ready(); }); });
  if (world() == 1) return;
  const Device gpu = link_->device();
  const Buffer bytes(gpu, 2 * static_cast<size_t>(world()));
  guarded([this] { host_->barrier(); });  // nobody allocates any more
  std::vector<SendTo> sends;
  std::vector<ReceiveFrom> receives;
  for (int peer = 0; peer < world(); ++peer) {
    if (peer == rank()) continue;
    sends.push_back({peer, {bytes.data() + 2 * peer, 1, gpu}});
    receives.push_back({peer, {bytes.data() + 2 * peer + 1, 1, gpu}});
  }
  guarded([&] {
    link_->send_receive(sends, receives, communication_);
    wait_together("the first exchange of the GPUs", [this] { return link_->is_ready(); });
    Event received(gpu);
    received.record(communication_);
    wait_together("the end of the GPUs' first exchange", [&received] { return received.is_done(); });
  });
}

void NcclCommunicator::meet_on(Communicator& host) {
  check(host.rank() == rank() && host.world() == world(), "connected GPUs keep their ranks");
  host_ = &host;
}

void NcclCommunicator::abort(std::string_view reason) noexcept {
  host_->abort(reason);
  end_links();
}

void NcclCommunicator::abandon_work(Context& ctx) noexcept {
  // While the peers live, what all hosts have enqueued ends by itself. Ended by force it would never end on the peers'
  // GPUs, and not return a peer that waits for its GPU in a call of CUDA.
  try {
    Event done(ctx.device());
    done.record(ctx.stream());
    const auto deadline = Clock::now() + kDrainTime;
    for (Backoff poll = poll_pauses(); !done.is_done() && Clock::now() < deadline; poll.pause())
      host_->device().check_peers();
  } catch (const std::exception& error) {
    log_debug("rank {} leaves its exchanges: {}", rank(), error.what());
  }
  end_links();
  ctx.abandon_work();
  if (!memory_) return;
  // What this rank frees next, others may write to until they have heard of the failure.
  abort_with_cause();
  try {
    writers()->set_writing(false);
  } catch (const std::exception& error) {
    log_debug("rank {} still counts as writing: {}", rank(), error.what());
  }
  writers()->wait_for_writers();
}

void NcclCommunicator::synchronize(Context& ctx, const char* reason) {
  guarded([&] {
    Event done(ctx.device());
    done.record(ctx.stream());
    wait_together("the end of the GPUs' work", [&done] { return done.is_done(); });
  });
  if (memory_) writers()->set_writing(false);
  ctx.synchronize(reason);
}

std::unique_ptr<Operation> NcclCommunicator::start(const char* name, std::span<const SendTo> sends,
                                                   std::span<const ReceiveFrom> receives,
                                                   std::span<const int> callers) {
  std::vector<SendTo> host_sends, gpu_sends;
  std::vector<ReceiveFrom> host_receives, gpu_receives;
  for (const SendTo& send : sends) (between_gpus(send) ? gpu_sends : host_sends).push_back(on_host(send));
  for (const ReceiveFrom& receive : receives)
    (between_gpus(receive) ? gpu_receives : host_receives).push_back(on_host(receive));
  std::unique_ptr<Exchange> exchange;
  guarded([&] {
    exchange = std::make_unique<Exchange>(*this, host_->exchange(name, host_sends, host_receives));
    // A rank without messages meets the others too: they cannot know that it has none.
    meet(name, callers);
    if (!gpu_sends.empty() || !gpu_receives.empty()) {
      Event ready(link_->device());
      ready.record(*compute_);
      communication_.wait(ready);
      link_->send_receive(gpu_sends, gpu_receives, communication_);
      await_link();
      exchange->mark_received();
    }
    meet(name, callers);
  });
  return exchange;
}

void NcclCommunicator::enqueue_together(const std::function<void()>& enqueue) {
  guarded([&] {
    if (memory_) writers()->set_writing(true);
    meet("recorded exchanges", everyone());
    enqueue();
    meet("recorded exchanges", everyone());
  });
}

void NcclCommunicator::start_fence(const char* name, std::span<const int> members, std::span<const int> callers,
                                   ConstByteView own, ByteView all) {
  check(shares_memory(link_->device()) && compute_ != nullptr, "GPUs that share memory have a stream to order it with");
  guarded([&] {
    writers()->set_writing(true);
    const Messages messages = to_members(members, own, all);
    host_->exchange(name, messages.sends, messages.receives).wait();
    meet(name, callers);
    memory_->fence(members, *compute_);
    meet(name, callers);
  });
}

void NcclCommunicator::check_peers() {
  guarded([this] { host_->device().check_peers(); });
}

/// Returns once the hosts of all `callers` have called it.
void NcclCommunicator::meet(const char* name, std::span<const int> callers) {
  const Messages messages = to_members(callers, {}, {});
  host_->exchange(name, messages.sends, messages.receives).wait();
}

bool NcclCommunicator::reaches(Device device) const {
  return device == link_->device() ? compute_ != nullptr : device == Device{};
}

void NcclCommunicator::copy(ByteView to, ConstByteView from) {
  if (to.device == Device{} && from.device == Device{})
    std::memcpy(to.data, from.data, from.bytes);
  else
    link_->copy(to, from, *compute_);
}

/// Waits until the link has enqueued what it was given. All ways are open: this takes no peer.
void NcclCommunicator::await_link() {
  Backoff poll = poll_pauses();
  while (!link_->is_ready()) {
    host_->device().check_peers();
    poll.pause();
  }
}

/// Waits until `is_done` on every rank. The ranks meet at the end, and before it in every half of the time-out, so that
/// the host's time-out finds one that is missing and blames none that still waits for its GPU.
void NcclCommunicator::wait_together(const char* name, const std::function<bool()>& is_done) {
  // A time-out of 0 waits for ever.
  const auto round = clock_duration(options_.timeout_s > 0 ? options_.timeout_s / 2 : HUGE_VAL);
  std::vector<std::byte> all(static_cast<size_t>(world()));
  for (;;) {
    const auto deadline = Clock::now() + round;
    bool done = is_done();
    for (Backoff poll = poll_pauses(); !done && Clock::now() < deadline; done = is_done()) {
      host_->device().check_peers();
      poll.pause();
    }
    const std::byte own{done};
    all[static_cast<size_t>(rank())] = own;
    const Messages messages = to_members(everyone(), host_bytes(std::span(&own, 1)), host_bytes(std::span(all)));
    host_->exchange(name, messages.sends, messages.receives).wait();
    if (std::ranges::count(all, std::byte{1}) == world()) return;
  }
}

template <class Body>
void NcclCommunicator::guarded(const Body& body) {
  try {
    body();
  } catch (...) {
    end_with(std::current_exception());
  }
}

void NcclCommunicator::end_with(const std::exception_ptr& error) {
  end_links();
  const auto deadline = Clock::now() + kCauseTime;
  while (Clock::now() < deadline) {
    host_->device().check_peers();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  host_->abort(describe(error));
  std::rethrow_exception(error);
}

}  // namespace nostos
