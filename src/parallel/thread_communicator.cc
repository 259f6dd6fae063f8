// Implements thread ranks: a mailbox for every pair of ranks under one mutex, and copies outside it.
#include "parallel/thread_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log_target.h"
#include "parallel/waiting.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;

/// One end of a message: matched with the other end, copied by whichever rank claims it first, then done.
struct End {
  enum class State { open, matched, copying, done };

  const char* name;
  bool sends;
  int peer;
  const std::byte* source;  // of a sending end
  std::byte* target;        // of a receiving end
  size_t bytes;
  Device device;
  State state = State::open;
  End* other = nullptr;
  const Event* ready = nullptr;     // of a device buffer: marks its rank's work before the exchange
  std::shared_ptr<Event> copied{};  // of a device buffer that the other end's rank has copied: marks the copy
};

/// The open ends of messages from one rank to another, in order; at most one of the queues holds any.
struct Mailbox {
  std::deque<End*> sends;
  std::deque<End*> receives;
};

/// What the ranks share, all of it guarded by `mutex`; the bytes of an End that is `copying` belong to the copier.
struct ThreadWorld {
  struct Rank {
    std::condition_variable changed;
    bool waiting = false;
    bool finished = false;
    bool is_writing = false;
    std::optional<Event> fence;  // its stream's part of the fence under way; not guarded, the ranks' messages order it
    std::exception_ptr error;
  };

  explicit ThreadWorld(int world) : ranks(world), mailboxes(static_cast<size_t>(world) * world) {}

  int world() const { return static_cast<int>(ranks.size()); }
  Mailbox& mailbox(int from, int to) { return mailboxes[static_cast<size_t>(from) * ranks.size() + to]; }

  /// Records the first failure, which rank `reporter` tells, and wakes everybody.
  void fail_all(int reporter, CommunicatorFailure cause) {
    if (failure) return;
    failure = std::move(cause);
    failure_reporter = reporter;
    for (Rank& rank : ranks) rank.changed.notify_all();
  }

  /// Marks `rank` as gone; a rank that still waits for it would wait for ever.
  void finish(int rank) {
    ranks[rank].finished = true;
    ranks[rank].is_writing = false;
    for (int peer = 0; peer < world(); ++peer) {
      const std::deque<End*>& to = mailbox(peer, rank).sends;
      const std::deque<End*>& from = mailbox(rank, peer).receives;
      if (to.empty() && from.empty()) continue;
      const End& end = to.empty() ? *from.front() : *to.front();
      fail_all(peer, {rank, fmt::format("it ended while rank {} waited for it in {}", peer, end.name)});
    }
  }

  std::mutex mutex;
  std::vector<Rank> ranks;
  std::vector<Mailbox> mailboxes;
  std::optional<CommunicatorFailure> failure;
  int failure_reporter = 0;
};

/// One rank's messages of an exchange.
struct RankMessages {
  const char* name;
  std::span<const SendTo> sends;
  std::span<const ReceiveFrom> receives;
};

class ThreadOperation final : public Operation {
 public:
  ThreadOperation(ThreadWorld& world, int rank, Stream* stream, double timeout_s, const RankMessages& messages)
      : world_(world), rank_(rank), stream_(stream), timeout_s_(timeout_s), name_(messages.name) {
    const auto& [name, sends, receives] = messages;
    ends_.reserve(sends.size() + receives.size());  // mailboxes point into it
    for (const SendTo& send : sends)
      ends_.push_back({name, true, send.peer, send.bytes.data, nullptr, send.bytes.bytes, send.bytes.device});
    for (const ReceiveFrom& receive : receives)
      ends_.push_back(
          {name, false, receive.peer, nullptr, receive.bytes.data, receive.bytes.bytes, receive.bytes.device});
    for (End& end : ends_) {
      if (end.device.kind == DeviceKind::cpu) continue;
      if (!ready_) {
        ready_.emplace(end.device);
        ready_->record(*stream_);
      }
      end.ready = &*ready_;
    }
  }

  ~ThreadOperation() override {
    std::unique_lock lock(world_.mutex);
    for (End& end : ends_) {
      if (end.state == End::State::open) {
        std::erase(own_queue(end), &end);
      } else if (end.state == End::State::matched) {
        end.other->state = End::State::open;  // in no mailbox: never done, its rank learns of the failure
      } else {
        self().changed.wait(lock, [&end] { return end.state == End::State::done; });
      }
    }
  }

  /// Matches every end with the peer's or leaves it in the mailbox, then copies what is matched.
  void start() {
    std::unique_lock lock(world_.mutex);
    if (world_.failure) throw_peer_failed(*world_.failure, rank_);
    for (End& end : ends_) {
      std::deque<End*>& counterparts = peer_queue(end);
      if (!counterparts.empty()) {
        match(end, *counterparts.front());
        counterparts.pop_front();
      } else if (world_.ranks[end.peer].finished) {
        world_.fail_all(rank_, {end.peer, fmt::format("it had ended when rank {} came to {}", rank_, name_)});
        throw_peer_failed(*world_.failure, rank_);
      } else {
        own_queue(end).push_back(&end);
      }
    }
    copy_matched(lock);
  }

  void wait() override {
    std::unique_lock lock(world_.mutex);
    self().waiting = true;
    try {
      wait_until_done(lock);
    } catch (...) {
      self().waiting = false;
      throw;
    }
    self().waiting = false;
    for (const End& end : ends_)
      if (end.copied) stream_->wait(*end.copied);
  }

 private:
  ThreadWorld::Rank& self() { return world_.ranks[rank_]; }

  Mailbox& mailbox(const End& end) {
    return end.sends ? world_.mailbox(rank_, end.peer) : world_.mailbox(end.peer, rank_);
  }
  std::deque<End*>& own_queue(const End& end) { return end.sends ? mailbox(end).sends : mailbox(end).receives; }
  std::deque<End*>& peer_queue(const End& end) { return end.sends ? mailbox(end).receives : mailbox(end).sends; }

  void match(End& end, End& other) {
    require(std::strcmp(end.name, other.name) == 0, ErrorKind::internal, "rank {} is in {} where rank {} is in {}",
            rank_, end.name, end.peer, other.name);
    const End& sent = end.sends ? end : other;
    const End& expected = end.sends ? other : end;
    require(sent.bytes == expected.bytes, ErrorKind::internal,
            "rank {} sends {} bytes to rank {} in {}, which expects {}", end.sends ? rank_ : end.peer, sent.bytes,
            end.sends ? end.peer : rank_, name_, expected.bytes);
    require(sent.device == expected.device, ErrorKind::internal, "rank {} sends a buffer on {} to one on {} in {}",
            end.sends ? rank_ : end.peer, to_string(sent.device), to_string(expected.device), name_);
    end.other = &other;
    other.other = &end;
    end.state = other.state = End::State::matched;
    world_.ranks[end.peer].changed.notify_all();
  }

  void copy_matched(std::unique_lock<std::mutex>& lock) {
    for (End& end : ends_) {
      if (end.state != End::State::matched) continue;
      End& other = *end.other;
      end.state = other.state = End::State::copying;
      lock.unlock();
      std::exception_ptr error;
      try {
        if (end.bytes > 0) copy(end, other);
      } catch (...) {
        error = std::current_exception();  // of a GPU
      }
      lock.lock();
      // Without its copy an end is never done, and nobody waits for it: both ranks learn of the failure.
      end.state = other.state = error ? End::State::open : End::State::done;
      if (error) world_.fail_all(rank_, {rank_, describe(error)});
      world_.ranks[end.peer].changed.notify_all();
      if (error) std::rethrow_exception(error);
    }
  }

  /// Copies on the calling rank's thread or, between device buffers, on its stream.
  void copy(const End& own, End& other) {
    std::byte* target = own.sends ? other.target : own.target;
    const std::byte* source = own.sends ? own.source : other.source;
    if (own.device.kind == DeviceKind::cpu) {
      std::memcpy(target, source, own.bytes);
      return;
    }
    stream_->wait(*other.ready);
    cuda::copy_async(target, source, own.bytes, stream_->handle());
    other.copied = std::make_shared<Event>(own.device);
    other.copied->record(*stream_);
  }

  void wait_until_done(std::unique_lock<std::mutex>& lock) {
    const auto timeout = clock_duration(timeout_s_);
    auto deadline = Clock::now() + timeout;
    int64_t done = 0;
    bool renewed = false;
    for (;;) {
      copy_matched(lock);
      const int64_t done_now =
          std::count_if(ends_.begin(), ends_.end(), [](const End& end) { return end.state == End::State::done; });
      if (done_now == std::ssize(ends_)) return;  // complete, even if another rank has failed meanwhile
      if (world_.failure) throw_peer_failed(*world_.failure, rank_);
      if (timeout_s_ <= 0) {
        self().changed.wait(lock);
        continue;
      }
      if (done_now > done) {
        deadline = Clock::now() + timeout;
        renewed = false;
      } else if (Clock::now() >= deadline) {
        give_up_on_absent(renewed);
        deadline = Clock::now() + timeout;
        renewed = true;
      }
      done = done_now;
      self().changed.wait_until(lock, deadline);
    }
  }

  /// Fails everybody, naming the ranks that have not come, unless all have (a long copy is under way). A rank that
  /// waits itself is a victim like this one: if all do, they get the time to name the culprit, once.
  void give_up_on_absent(bool waited_for_others) {
    std::vector<int> missing;
    for (const End& end : ends_)
      if (end.state == End::State::open) missing.push_back(end.peer);
    if (missing.empty()) return;
    missing = distinct(std::move(missing));
    std::vector<int> absent = missing;
    std::erase_if(absent, [this](int rank) { return world_.ranks[rank].waiting; });
    if (absent.empty() && !waited_for_others) return;
    if (!absent.empty()) missing = absent;
    world_.fail_all(rank_, absence(missing, name_, timeout_s_, rank_));
    throw_peer_failed(*world_.failure, rank_);
  }

  ThreadWorld& world_;
  int rank_;
  Stream* stream_;  // null without device buffers
  double timeout_s_;
  const char* name_;
  std::optional<Event> ready_;
  std::vector<End> ends_;
};

class ThreadCommunicator final : public Communicator, private HostRankDevice, private WriterBoard {
 public:
  ThreadCommunicator(ThreadWorld& world, int rank, const CommunicatorOptions& options)
      : Communicator(rank, world.world()),
        HostRankDevice(static_cast<Communicator&>(*this)),
        world_(world),
        options_(options) {}

  void abort(std::string_view reason) noexcept override {
    std::string text;
    try {
      text = reason;
    } catch (const std::exception&) {
      // Out of memory for the text: the abort stands without it.
    }
    std::lock_guard lock(world_.mutex);
    world_.fail_all(rank(), {rank(), std::move(text)});
  }
  RankDevice& device() override { return *this; }

 protected:
  std::unique_ptr<Operation> start(const char* name, std::span<const SendTo> sends,
                                   std::span<const ReceiveFrom> receives, std::span<const int>) override {
    auto operation = std::make_unique<ThreadOperation>(world_, rank(), stream_, options_.timeout_s,
                                                       RankMessages{name, sends, receives});
    operation->start();
    return operation;
  }
  /// Ranks that share a GPU wait for one another's events.
  void start_fence(const char* name, std::span<const int> members, std::span<const int>, ConstByteView own,
                   ByteView all) override {
    set_writing(true);
    const bool on_gpu = stream_ != nullptr && stream_->handle() != nullptr;
    if (on_gpu) {
      if (!self().fence) self().fence.emplace(stream_->device());
      self().fence->record(*stream_);
    }
    const auto tell = [&](ConstByteView from, ByteView to) {
      const Messages messages = to_members(members, from, to);
      start(name, messages.sends, messages.receives, {})->wait();
    };
    tell(own, all);
    if (!on_gpu) return;
    for (const int member : members)
      if (member != rank()) stream_->wait(*world_.ranks[member].fence);
    tell({}, {});  // nobody records its event again before all wait for it
  }
  bool reaches(Device device) const override { return device.kind == DeviceKind::cpu || stream_ != nullptr; }
  void copy(ByteView to, ConstByteView from) override {
    if (to.device.kind == DeviceKind::cpu)
      std::memcpy(to.data, from.data, from.bytes);
    else
      cuda::copy_async(to.data, from.data, from.bytes, stream_->handle());
  }

 private:
  void order_with(Stream& stream) override { stream_ = &stream; }
  bool shares_memory(Device device) const override { return reaches(device); }
  WriterBoard* writers() override { return this; }

  void set_writing(bool writing) override {
    const std::lock_guard lock(world_.mutex);
    self().is_writing = writing;
  }

  void wait_for_writers() noexcept override {
    constexpr std::chrono::seconds kMost{10};
    const auto deadline = Clock::now() + kMost;
    const auto are_some = [this] {
      const std::lock_guard lock(world_.mutex);
      return std::ranges::any_of(world_.ranks, &ThreadWorld::Rank::is_writing);
    };
    while (are_some() && Clock::now() < deadline) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }

  void abandon_work(Context& ctx) noexcept override {
    if (!is_writing()) return ctx.abandon_work();
    abort_with_cause();
    ctx.abandon_work();
    set_writing(false);
    wait_for_writers();
  }

  ThreadWorld::Rank& self() { return world_.ranks[rank()]; }
  bool is_writing() {
    const std::lock_guard lock(world_.mutex);
    return self().is_writing;
  }

  ThreadWorld& world_;
  CommunicatorOptions options_;
  Stream* stream_ = nullptr;
};

void run_rank(ThreadWorld& world, int rank, const std::function<void(Communicator&)>& body,
              const CommunicatorOptions& options) {
  std::exception_ptr error;
  try {
    ThreadCommunicator communicator(world, rank, options);
    body(communicator);
  } catch (...) {
    error = std::current_exception();
  }
  std::lock_guard lock(world.mutex);
  if (error) {
    world.ranks[rank].error = error;
    world.fail_all(rank, {rank, describe(error)});
  }
  world.finish(rank);
}

}  // namespace

void run_thread_ranks(int world_size, const std::function<void(Communicator&)>& body,
                      const CommunicatorOptions& options) {
  check(world_size >= 1, "a world has at least one rank");
  ThreadWorld world(world_size);
  std::vector<std::thread> threads;
  threads.reserve(world_size);
  std::exception_ptr start_error;
  try {
    for (int rank = 1; rank < world_size; ++rank)
      threads.emplace_back([&world, rank, &body, &options, target = log_target()] {
        const LogTo to(target);
        run_rank(world, rank, body, options);
      });
  } catch (const std::system_error& error) {
    start_error = std::make_exception_ptr(Error(
        ErrorKind::out_of_memory, fmt::format("cannot start {} threads for ranks: {}", world_size, error.what())));
  }
  if (start_error) {
    std::lock_guard lock(world.mutex);
    world.ranks[0].error = start_error;
    world.fail_all(0, {0, describe(start_error)});
  } else {
    run_rank(world, 0, body, options);
  }
  for (std::thread& thread : threads) thread.join();

  if (!world.failure) return;
  const std::exception_ptr& cause = world.ranks[world.failure_reporter].error;
  if (cause) std::rethrow_exception(cause);
  throw_peer_failed(*world.failure, -1);
}

}  // namespace nostos
