// Tests ranks with a GPU each over a link that is none: which way messages take, and how ranks end one another.
#include "parallel/nccl_communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "parallel/exchange_cases.h"
#include "parallel/self_communicator.h"
#include "parallel/thread_communicator.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr Device kGpu{DeviceKind::cpu, 1};  // memory that the host communicator does not reach

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

/// What has been sent and not yet received: [from * world + to].
struct Wires {
  explicit Wires(int world) : world(world), queues(static_cast<size_t>(world) * world) {}

  std::deque<std::vector<std::byte>>& queue(int from, int to) { return queues[static_cast<size_t>(from) * world + to]; }

  int world;
  std::mutex mutex;
  std::vector<std::deque<std::vector<std::byte>>> queues;
  std::atomic<int> messages{0}, aborted{0};
  std::atomic<bool> broken{false};  // every link
  Clock::time_point slow_until{};   // for rank 1
};

/// As NCCL: nothing blocks, messages between two ranks meet in order, and what comes is there once is_ready().
class FakeLink final : public GpuLink {
 public:
  FakeLink(Wires& wires, int rank) : wires_(wires), rank_(rank) {}
  ~FakeLink() override { EXPECT_TRUE(receives_.empty() || aborted_) << "rank " << rank_ << " left an exchange"; }

  Device device() const override { return kGpu; }

  bool is_ready() override {
    require(!aborted_, ErrorKind::internal, "the link was aborted");
    require(!wires_.broken, ErrorKind::peer_failed, "the fake link broke");
    if (rank_ == 1 && Clock::now() < wires_.slow_until) return false;
    const std::lock_guard lock(wires_.mutex);
    while (!receives_.empty()) {
      const ReceiveFrom& receive = receives_.front();
      std::deque<std::vector<std::byte>>& queue = wires_.queue(receive.peer, rank_);
      if (queue.empty()) return false;
      EXPECT_EQ(queue.front().size(), receive.bytes.bytes);
      std::memcpy(receive.bytes.data, queue.front().data(), queue.front().size());
      queue.pop_front();
      receives_.pop_front();
    }
    return true;
  }

  void send_receive(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, Stream&) override {
    require(!aborted_, ErrorKind::internal, "the link was aborted");
    const std::lock_guard lock(wires_.mutex);
    for (const SendTo& send : sends) {
      EXPECT_EQ(send.bytes.device, kGpu);
      EXPECT_GT(send.bytes.bytes, 0u);
      EXPECT_NE(send.peer, rank_);
      wires_.queue(rank_, send.peer).emplace_back(send.bytes.data, send.bytes.data + send.bytes.bytes);
      ++wires_.messages;
    }
    for (const ReceiveFrom& receive : receives) {
      EXPECT_EQ(receive.bytes.device, kGpu);
      EXPECT_GT(receive.bytes.bytes, 0u);
      receives_.push_back(receive);
    }
  }

  void copy(ByteView to, ConstByteView from, Stream&) override { std::memcpy(to.data, from.data, from.bytes); }

  void abort() noexcept override {
    if (!std::exchange(aborted_, true)) ++wires_.aborted;
  }

 private:
  Wires& wires_;
  int rank_;
  bool aborted_ = false;
  std::deque<ReceiveFrom> receives_;
};

/// What fake GPUs that reach each other's memory did.
struct SharedMemory {
  std::atomic<int> fences{0}, aborted{0};
};

class FakeMemory final : public PeerMemory {
 public:
  FakeMemory(SharedMemory& shared, int rank) : shared_(shared), rank_(rank) {}
  void fence(std::span<const int> members, Stream&) override {
    EXPECT_EQ(std::ranges::count(members, rank_), 1);
    ++shared_.fences;
  }
  void abort() noexcept override {
    if (!std::exchange(aborted_, true)) ++shared_.aborted;
  }

 private:
  SharedMemory& shared_;
  int rank_;
  bool aborted_ = false;
};

/// Runs `body` on `world` ranks with a fake GPU each.
void run_gpu_ranks(Wires& wires, const std::function<void(NcclCommunicator&, Communicator& host)>& body,
                   const CommunicatorOptions& options = {}) {
  run_thread_ranks(
      wires.world,
      [&](Communicator& host) {
        Stream compute{Device{}};
        NcclCommunicator gpus(host, nullptr, std::make_unique<FakeLink>(wires, host.rank()), options);
        gpus.order_with(compute);
        body(gpus, host);
      },
      options);
}

void expect_error(ErrorKind kind, const std::string& part, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

ByteView on_gpu(ByteView view) { return {view.data, view.bytes, kGpu}; }

class GpuRanks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(World, GpuRanks, testing::Values(1, 2, 3, 8));

TEST_P(GpuRanks, ExchangeHostBuffersAsTheHostsDo) {
  Wires wires(GetParam());
  run_gpu_ranks(wires, [](NcclCommunicator& gpus, Communicator&) { exchange_cases::everything(gpus, 20); });
  EXPECT_EQ(wires.messages, GetParam() * (GetParam() - 1));  // those that open the ways
  EXPECT_EQ(wires.aborted, 0);
}

TEST_P(GpuRanks, SplitEveryExchangeByWhereItsBuffersAre) {
  const int world = GetParam();
  Wires wires(world);
  std::atomic<int> expected = world * (world - 1);
  run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator& host) {
    for (int round = 0; round < 30; ++round) {
      exchange_cases::AllToAll one(gpus, static_cast<uint64_t>(2 * round), 2000),
          two(gpus, static_cast<uint64_t>(2 * round + 1), 2000);
      // Of both, the messages to odd peers from odd ranks, or from even to even, travel between GPUs.
      std::vector<SendTo> sends;
      std::vector<ReceiveFrom> receives;
      uint64_t host_bytes_sent = 0;
      for (exchange_cases::AllToAll* each : {&one, &two}) {
        for (int peer = 0; peer < world; ++peer) {
          const bool by_gpu = (peer + gpus.rank()) % 2 == 0;
          const ByteView sent = host_bytes(std::span(each->send)).part(each->send_parts[peer]);
          const ByteView received = host_bytes(std::span(each->receive)).part(each->receive_parts[peer]);
          sends.push_back({peer, by_gpu ? on_gpu(sent) : sent});
          receives.push_back({peer, by_gpu ? on_gpu(received) : received});
          if (peer == gpus.rank()) continue;
          if (by_gpu && sent.bytes > 0) ++expected;
          if (!by_gpu) host_bytes_sent += sent.bytes;
        }
      }
      const Traffic before = host.traffic();
      gpus.exchange("mixed", sends, receives).wait();
      one.verify();
      two.verify();
      EXPECT_EQ(host.traffic().bytes - before.bytes, host_bytes_sent);
    }
  });
  EXPECT_EQ(wires.messages, expected);
}

TEST_P(GpuRanks, WorkInGroups) {
  Wires wires(GetParam());
  run_gpu_ranks(wires, [](NcclCommunicator& gpus, Communicator&) {
    std::vector<int> ranks;
    for (int rank = gpus.rank() % 2; rank < gpus.world(); rank += 2) ranks.insert(ranks.begin(), rank);
    GroupCommunicator group(gpus, ranks);
    const std::vector<Part> parts = exchange_cases::lay_out(std::vector<size_t>(group.world(), 5));
    std::vector<std::byte> own(5, static_cast<std::byte>(gpus.rank() + 1)), all(exchange_cases::end_of(parts));
    group.all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))), parts).wait();
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<std::byte>(ranks[i / 5] + 1));
  });
}

TEST_P(GpuRanks, WaitForOneAnother) {
  Wires wires(GetParam());
  std::atomic<int> came{0};
  run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
    Context ctx({}, 1);
    sleep_ms(10 * gpus.rank());
    ++came;
    gpus.synchronize(ctx, "test");
    EXPECT_EQ(came, GetParam());
  });
}

// Or it would wait for its GPU, somewhere, with work under way that others have yet to enqueue.
TEST(GpuRanks, NoRankLeavesAnExchangeBeforeItsPeersHaveEnqueuedIt) {
  Wires wires(3);
  std::atomic<bool> came{false};
  run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
    std::vector<std::byte> bytes(5);
    const ByteView view = on_gpu(host_bytes(std::span(bytes)));
    if (gpus.rank() == 0) {
      Pending sent = gpus.exchange("test", std::array{SendTo{1, view}}, {});
      EXPECT_TRUE(came);
      sent.wait();
    } else if (gpus.rank() == 1) {
      sleep_ms(50);
      came = true;
      gpus.exchange("test", {}, std::array{ReceiveFrom{0, view}}).wait();
    } else {
      gpus.exchange("test", {}, {}).wait();
    }
  });
}

// Or a rank could wait, somewhere, for the GPU of a peer whose messages wait for this rank: also one that this rank has
// no messages for, and one of another group.
TEST(GpuRanks, NoRankEnqueuesAnExchangeBeforeAllHaveCome) {
  constexpr int kWorld = 4;
  Wires wires(kWorld);
  std::atomic<int> came{0};
  run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
    const int rank = gpus.rank(), pair = rank / 2 * 2;
    GroupCommunicator in_step(gpus, {pair, pair + 1}, GroupCommunicator::Pace::shared);
    std::vector<std::byte> bytes(10);
    const ByteView view = on_gpu(host_bytes(std::span(bytes)));
    gpus.barrier();
    const int before = wires.messages;
    const auto make = [&](int round, const std::function<Pending()>& exchange) {
      sleep_ms(rank == 3 ? 30 : 0);
      EXPECT_TRUE(wires.messages == before + 2 * round) << "round " << round;
      ++came;
      Pending pending = exchange();
      EXPECT_EQ(came, (round + 1) * kWorld);
      pending.wait();
      gpus.barrier();
    };
    make(0, [&] {
      if (rank == 0) return gpus.exchange("one way", std::array{SendTo{1, view}}, {});
      if (rank == 1) return gpus.exchange("one way", std::array{SendTo{2, view}}, std::array{ReceiveFrom{0, view}});
      if (rank == 2) return gpus.exchange("one way", {}, std::array{ReceiveFrom{1, view}});
      return gpus.exchange("one way", {}, {});
    });
    make(1, [&] {
      if (in_step.rank() == 0) return in_step.exchange("pairs", std::array{SendTo{1, view}}, {});
      return in_step.exchange("pairs", {}, std::array{ReceiveFrom{0, view}});
    });
  });
}

/// Runs `body` on two ranks whose fake GPUs reach each other's memory.
void run_sharing_ranks(SharedMemory& shared, const std::function<void(NcclCommunicator&, Context&)>& body) {
  Wires wires(2);
  run_thread_ranks(2, [&](Communicator& host) {
    Context ctx({}, 1);
    NcclCommunicator gpus(host, std::make_unique<FakeMemory>(shared, host.rank()),
                          std::make_unique<FakeLink>(wires, host.rank()));
    gpus.order_with(ctx.stream());
    body(gpus, ctx);
  });
}

TEST(GpuRanks, EnqueueFencesTogether) {
  SharedMemory shared;
  std::atomic<int> came{0};
  run_sharing_ranks(shared, [&](NcclCommunicator& gpus, Context&) {
    EXPECT_TRUE(gpus.shares_memory(kGpu));
    EXPECT_FALSE(gpus.shares_memory(Device{}));
    for (int round = 1; round < 10; ++round) {
      sleep_ms(gpus.rank() * (round % 3));
      ++came;
      const std::vector<int> told = gpus.fence_and_tell("test", 10 * gpus.rank() + round);
      EXPECT_EQ(told, (std::vector{round, 10 + round}));
      EXPECT_GE(came, 2 * round);
      EXPECT_GE(shared.fences, 2 * round);
      gpus.barrier();
    }
  });
  EXPECT_EQ(shared.aborted, 0);
}

TEST(GpuRanks, WithoutSharedMemoryThereIsNoFence) {
  Wires wires(2);
  expect_error(ErrorKind::internal, "share memory",
               [&] { run_gpu_ranks(wires, [](NcclCommunicator& gpus, Communicator&) { gpus.fence("test"); }); });
}

// What a rank frees after a drawing that failed, no other GPU may write to any more.
TEST(GpuRanks, AFailureEndsFencesAndWaitsForAllGpus) {
  for (const bool recorded : {false, true}) {
    SharedMemory shared;
    std::atomic<bool> writing{true};
    expect_error(ErrorKind::out_of_memory, "no room", [&] {
      run_sharing_ranks(shared, [&](NcclCommunicator& gpus, Context& ctx) {
        const auto work = [&] { recorded ? gpus.enqueue_together([] {}) : gpus.fence("test"); };
        try {
          work();
          if (gpus.rank() == 1) fail(ErrorKind::out_of_memory, "no room");
          work();
        } catch (const Error&) {
          if (gpus.rank() == 0) {
            sleep_ms(50);  // its GPU is still at work
            writing = false;
          }
          gpus.abandon_work(ctx);
          EXPECT_FALSE(writing);
          throw;
        }
      });
    });
    EXPECT_EQ(shared.aborted, 2);
  }
}

TEST(GpuRanks, ARankThatIsDoneIsNotWaitedFor) {
  SharedMemory shared;
  std::atomic<bool> done{false};
  const auto start = Clock::now();
  expect_error(ErrorKind::out_of_memory, "no room", [&] {
    run_sharing_ranks(shared, [&](NcclCommunicator& gpus, Context& ctx) {
      gpus.fence("test");
      gpus.synchronize(ctx, "test");
      if (gpus.rank() == 0) {
        while (!done) sleep_ms(1);
        return;
      }
      try {
        fail(ErrorKind::out_of_memory, "no room");
      } catch (const Error&) {
        gpus.abandon_work(ctx);
        done = true;
        throw;
      }
    });
  });
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 5);
}

TEST(GpuRanks, EnqueueRecordedExchangesTogether) {
  Wires wires(3);
  std::atomic<int> came{0}, enqueued{0};
  run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
    sleep_ms(15 * gpus.rank());
    ++came;
    gpus.enqueue_together([&] {
      EXPECT_EQ(came, 3);
      sleep_ms(15 * gpus.rank());
      ++enqueued;
    });
    EXPECT_EQ(enqueued, 3);
  });
}

TEST(GpuRanks, StayConnectedFromOneRunToTheNext) {
  constexpr int kWorld = 3;
  Wires wires(kWorld);
  Stream compute{Device{}};
  std::array<std::unique_ptr<NcclCommunicator>, kWorld> ranks;
  const std::vector<Part> parts = exchange_cases::lay_out({5, 5, 5});
  for (int run = 0; run < 3; ++run) {
    run_thread_ranks(kWorld, [&](Communicator& host) {
      std::unique_ptr<NcclCommunicator>& gpus = ranks[static_cast<size_t>(host.rank())];
      if (gpus)
        gpus->meet_on(host);
      else
        gpus = std::make_unique<NcclCommunicator>(host, nullptr, std::make_unique<FakeLink>(wires, host.rank()));
      gpus->order_with(compute);
      std::vector<std::byte> own(5, static_cast<std::byte>(10 * run + host.rank())), all(15);
      gpus->all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))), parts).wait();
      for (size_t i = 0; i < all.size(); ++i)
        EXPECT_EQ(all[i], static_cast<std::byte>(10 * run + static_cast<int>(i / 5)));
    });
  }
  EXPECT_EQ(wires.messages, (1 + 3) * kWorld * (kWorld - 1));
  EXPECT_EQ(wires.aborted, 0);
  // Without hosts.
  for (const std::unique_ptr<NcclCommunicator>& gpus : ranks) gpus->leave();
  EXPECT_EQ(wires.aborted, kWorld);
}

TEST(GpuRanks, AbandonedWorkEndsTheLink) {
  Wires wires(2);
  expect_error(ErrorKind::cancelled, "enough", [&] {
    run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
      gpus.barrier();  // all are connected
      if (gpus.rank() == 1) {
        Context ctx({}, 1);
        gpus.abandon_work(ctx);
        fail(ErrorKind::cancelled, "enough");
      }
      std::vector<std::byte> own(5), all(10);
      expect_error(ErrorKind::peer_failed, "rank 1 failed: enough", [&] {
        gpus.all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))),
                        exchange_cases::lay_out({5, 5}))
            .wait();
      });
    });
  });
  EXPECT_EQ(wires.aborted, 2);
}

TEST(GpuRanks, ExchangesBetweenGpusAloneCanBeRecorded) {
  Wires wires(2);
  run_gpu_ranks(wires, [](NcclCommunicator& gpus, Communicator& host) {
    EXPECT_TRUE(gpus.can_record());
    EXPECT_FALSE(host.device().can_record());
    EXPECT_TRUE(GroupCommunicator(gpus, {0, 1}).device().can_record());
    EXPECT_FALSE(GroupCommunicator(host, {0, 1}).device().can_record());
  });
  EXPECT_TRUE(SelfCommunicator().device().can_record());
}

TEST(GpuRanks, ReachNoGpuWithoutAStreamAndNoOtherGpu) {
  Wires wires(1);
  SelfCommunicator host;
  NcclCommunicator gpus(host, nullptr, std::make_unique<FakeLink>(wires, 0));
  std::vector<std::byte> bytes(4);
  const auto broadcast = [&](Device device) { gpus.broadcast({bytes.data(), bytes.size(), device}, 0).wait(); };
  const auto send_to_self = [&](Device device) {
    const ByteView view{bytes.data(), bytes.size(), device};
    gpus.all_gather(view, view, std::vector<Part>{{0, 4}}).wait();
  };
  broadcast(Device{});
  expect_error(ErrorKind::device, "cannot exchange", [&] { send_to_self(kGpu); });
  Stream compute{Device{}};
  gpus.order_with(compute);
  send_to_self(kGpu);
  expect_error(ErrorKind::device, "cuda:3", [&] { send_to_self({DeviceKind::cuda, 3}); });
}

TEST(GpuRanks, AFailureEndsTheLinksOfAllRanks) {
  for (int thrower = 0; thrower < 3; ++thrower) {
    Wires wires(3);
    std::atomic<int> peer_failures{0};
    const auto start = Clock::now();
    expect_error(ErrorKind::out_of_memory, "no room", [&] {
      run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
        std::vector<std::byte> own(5), all(15);
        const std::vector<Part> parts = exchange_cases::lay_out({5, 5, 5});
        gpus.barrier();  // all are connected
        if (gpus.rank() == thrower) {
          sleep_ms(20);
          fail(ErrorKind::out_of_memory, "no room");
        }
        // The others wait for its message.
        const std::string named = "rank " + std::to_string(thrower) + " failed: no room";
        const auto gather = [&] {
          gpus.all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))), parts).wait();
        };
        expect_error(ErrorKind::peer_failed, named, gather);
        expect_error(ErrorKind::peer_failed, named, gather);
        Context ctx({}, 1);
        expect_error(ErrorKind::peer_failed, named, [&] { gpus.synchronize(ctx, "test"); });
        ++peer_failures;
      });
    });
    EXPECT_EQ(peer_failures, 2);
    EXPECT_EQ(wires.aborted, 3);
    EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 5);
  }
}

TEST(GpuRanks, AnAbortReachesARankThatWaitsForItsGpu) {
  Wires wires(3);
  std::atomic<int> peer_failures{0};
  expect_error(ErrorKind::peer_failed, "rank 1 failed: enough", [&] {
    run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator&) {
      Context ctx({}, 1);
      gpus.barrier();  // all are connected
      if (gpus.rank() == 1) {
        sleep_ms(20);
        gpus.abort("enough");
        return;
      }
      expect_error(ErrorKind::peer_failed, "rank 1 failed: enough", [&] { gpus.synchronize(ctx, "test"); });
      ++peer_failures;
    });
  });
  EXPECT_EQ(peer_failures, 2);
  EXPECT_EQ(wires.aborted, 3);
}

TEST(GpuRanks, ABrokenLinkIsTheCauseWhereNoRankKnowsABetterOne) {
  Wires wires(2);
  expect_error(ErrorKind::peer_failed, "the fake link broke", [&] {
    run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator& host) {
      host.barrier();
      wires.broken = true;
      std::vector<std::byte> own(5), all(10);
      gpus.all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))),
                      exchange_cases::lay_out({5, 5}))
          .wait();
    });
  });
  EXPECT_EQ(wires.aborted, 2);
}

TEST(GpuRanks, ATimeOutNamesTheRankThatDidNotCome) {
  for (int missing = 0; missing < 3; ++missing) {
    Wires wires(3);
    std::atomic<bool> over{false};
    const auto start = Clock::now();
    expect_error(ErrorKind::peer_failed, "rank " + std::to_string(missing) + " failed: it did not come to the end of",
                 [&] {
                   run_gpu_ranks(wires,
                                 [&](NcclCommunicator& gpus, Communicator&) {
                                   Context ctx({}, 1);
                                   if (gpus.rank() == missing) {
                                     while (!over) sleep_ms(5);
                                     return;
                                   }
                                   try {
                                     gpus.synchronize(ctx, "test");
                                   } catch (const Error&) {
                                     over = true;
                                     throw;
                                   }
                                 },
                                 {0.8});
                 });
    EXPECT_LT(std::chrono::duration<double>(Clock::now() - start).count(), 5);  // measured: 0.8 s
  }
}

TEST(GpuRanks, ASlowGpuIsNoFailureWhileItsRankLives) {
  Wires wires(3);
  wires.slow_until = Clock::now() + std::chrono::milliseconds(2100);
  run_gpu_ranks(wires, [&](NcclCommunicator&, Communicator&) { EXPECT_GE(Clock::now(), wires.slow_until); }, {0.8});
}

TEST(GpuRanks, ADroppedExchangeEndsTheLink) {
  Wires wires(2);
  expect_error(ErrorKind::peer_failed, "dropped an exchange", [&] {
    run_gpu_ranks(wires, [&](NcclCommunicator& gpus, Communicator& host) {
      std::vector<std::byte> own(5), all(10);
      Pending pending = gpus.all_gather(on_gpu(host_bytes(std::span(own))), on_gpu(host_bytes(std::span(all))),
                                        exchange_cases::lay_out({5, 5}));
      if (gpus.rank() == 0) {
        const Pending dropped = std::move(pending);
      } else {
        pending.wait();
        host.barrier();
      }
    });
  });
  EXPECT_EQ(wires.aborted, 2);
}

TEST(Nccl, ABuildWithoutItSaysSo) {
  if (built_with_nccl()) GTEST_SKIP() << "this build has NCCL";
  SelfCommunicator host;
  expect_error(ErrorKind::device, "NOSTOS_NCCL", [&] { NcclCommunicator(host, {DeviceKind::cuda, 0}); });
}

}  // namespace
}  // namespace nostos
