// Tests the communicators of one process, and how thread ranks fail.
#include "parallel/communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "parallel/exchange_cases.h"
#include "parallel/self_communicator.h"
#include "parallel/thread_communicator.h"

namespace nostos {
namespace {

using exchange_cases::AllToAll;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Counts up when the scope is left, also by an exception.
class CountAtEnd {
 public:
  explicit CountAtEnd(std::atomic<int>& count) : count_(count) {}
  ~CountAtEnd() { ++count_; }
  CountAtEnd(const CountAtEnd&) = delete;
  CountAtEnd& operator=(const CountAtEnd&) = delete;

 private:
  std::atomic<int>& count_;
};

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

/// Runs `call`, which must throw an Error of `kind` whose message holds every one of `parts`.
void expect_error(ErrorKind kind, const std::vector<std::string>& parts, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(SelfCommunicator, ExchangesWithItself) {
  SelfCommunicator comm;
  exchange_cases::everything(comm, 20);
  EXPECT_EQ(comm.traffic().bytes, 0u);
  comm.abort("enough");
  comm.abort("too late to count");
  expect_error(ErrorKind::peer_failed, {"enough"}, [&] { comm.barrier(); });
}

class ThreadRanks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(World, ThreadRanks, testing::Range(1, 9));

TEST_P(ThreadRanks, ExchangeBitForBit) {
  run_thread_ranks(GetParam(), [](Communicator& comm) { exchange_cases::everything(comm, 40); });
}

TEST_P(ThreadRanks, ComeAndWaitAtAnyTime) {
  run_thread_ranks(GetParam(), [](Communicator& comm) {
    std::mt19937 random(static_cast<unsigned>(comm.rank()));
    for (int round = 0; round < 15; ++round) {
      AllToAll exchange(comm, static_cast<uint64_t>(round), 30000);
      sleep_ms(static_cast<int>(random() % 4));
      Pending pending = exchange.start(comm);
      sleep_ms(static_cast<int>(random() % 4));
      pending.wait();
      exchange.verify();
    }
  });
}

// Each rank writes to the others' memory, in groups and all together, and reads what was written to its own.
TEST_P(ThreadRanks, FencesOrderWhatRanksWriteToOneAnother) {
  run_thread_ranks(GetParam(), [](Communicator& comm) {
    EXPECT_TRUE(comm.device().shares_memory(Device{}));
    std::vector<int> pair;
    for (int rank = comm.rank() / 2 * 2; rank < std::min(comm.rank() / 2 * 2 + 2, comm.world()); ++rank)
      pair.insert(pair.begin(), rank);
    GroupCommunicator group(comm, pair);
    for (int round = 0; round < 30; ++round) {
      Communicator& ranks = round % 2 == 0 ? comm : static_cast<Communicator&>(group);
      std::vector<int> own(static_cast<size_t>(ranks.world()));
      const std::vector<int*> all = ranks.fence_and_tell("places", own.data());
      for (int* const others : all) others[ranks.rank()] = 100 * round + ranks.rank();
      const uint64_t sent = comm.traffic().bytes;
      ranks.fence("values", {sizeof(int) * all.size(), all.size()});
      EXPECT_EQ(comm.traffic().bytes - sent, sizeof(int) * all.size());
      for (int rank = 0; rank < ranks.world(); ++rank) EXPECT_EQ(own[rank], 100 * round + rank);
      ranks.fence("read");
    }
  });
}

// What a rank frees after a failure, no other may write to any more.
TEST(ThreadRanks, AbandonWorkWhenNoneWritesToOthers) {
  std::atomic<bool> writing{true};
  expect_error(ErrorKind::out_of_memory, {"no room"}, [&] {
    run_thread_ranks(2, [&](Communicator& comm) {
      Context ctx({}, 1);
      try {
        comm.fence("test");
        if (comm.rank() == 1) fail(ErrorKind::out_of_memory, "no room");
        comm.fence("test");
      } catch (const Error&) {
        if (comm.rank() == 0) {
          sleep_ms(50);
          writing = false;
        }
        comm.device().abandon_work(ctx);
        EXPECT_FALSE(writing);
        throw;
      }
    });
  });
}

TEST(ThreadRanks, AnExchangeEndsWithoutTheSlowerRanksWait) {
  // Rank 1 starts and then works for long; rank 0 must not wait for rank 1's wait().
  std::atomic<bool> done{false};
  run_thread_ranks(2, [&](Communicator& comm) {
    AllToAll exchange(comm, 5, 100000);
    Pending pending = exchange.start(comm);
    if (comm.rank() == 0) {
      pending.wait();
      done = true;
    } else {
      for (int i = 0; i < 1000 && !done; ++i) sleep_ms(10);
      EXPECT_TRUE(done);
      pending.wait();
    }
    exchange.verify();
  });
}

TEST(ThreadRanks, RunOneThreadEach) {
  std::atomic<int> ran{0};
  const auto caller = std::this_thread::get_id();
  run_thread_ranks(5, [&](Communicator& comm) {
    ran += 1 << comm.rank();
    EXPECT_EQ(comm.world(), 5);
    EXPECT_EQ(comm.rank() == 0, std::this_thread::get_id() == caller);
  });
  EXPECT_EQ(ran, 31);
}

TEST(ThreadRanks, RethrowTheCauseNotWhatFollows) {
  for (int thrower = 0; thrower < 4; ++thrower) {
    std::atomic<int> peer_failures{0};
    const auto start = Clock::now();
    expect_error(ErrorKind::out_of_memory, {"no room"}, [&] {
      run_thread_ranks(4, [&](Communicator& comm) {
        comm.barrier();
        if (comm.rank() == thrower) {
          sleep_ms(20);
          fail(ErrorKind::out_of_memory, "no room");
        }
        const std::string named = "rank " + std::to_string(thrower) + " failed: no room";
        expect_error(ErrorKind::peer_failed, {named}, [&] { comm.barrier(); });
        // And so does every later call.
        AllToAll exchange(comm, 1, 100);
        expect_error(ErrorKind::peer_failed, {named}, [&] { exchange.start(comm).wait(); });
        ++peer_failures;
        comm.barrier();
      });
    });
    EXPECT_EQ(peer_failures, 3);
    EXPECT_LT(seconds_since(start), 10);  // measured: 0.02 s, of which 0.02 s asleep
  }
}

TEST(ThreadRanks, RethrowWhatIsNoErrorOfOurs) {
  EXPECT_THROW(run_thread_ranks(3,
                                [](Communicator& comm) {
                                  if (comm.rank() == 2) throw std::length_error("foreign");
                                  comm.barrier();
                                }),
               std::length_error);
  EXPECT_THROW(run_thread_ranks(3,
                                [](Communicator& comm) {
                                  if (comm.rank() == 1) throw 42;
                                  comm.barrier();
                                }),
               int);
}

TEST(ThreadRanks, AThrowWithExchangesUnderWayFreesTheirBuffers) {
  // Buffers die while peers may be about to copy: the address and thread sanitizers watch.
  for (int round = 0; round < 50; ++round) {
    expect_error(ErrorKind::internal, {"thrown with two exchanges under way"}, [&] {
      run_thread_ranks(4, [&](Communicator& comm) {
        AllToAll first(comm, static_cast<uint64_t>(round), 200000),
            second(comm, static_cast<uint64_t>(round + 1), 200000);
        Pending pending_first = first.start(comm);
        Pending pending_second = second.start(comm);
        if (comm.rank() == round % 4) fail(ErrorKind::internal, "thrown with two exchanges under way");
        pending_first.wait();
        pending_second.wait();
        comm.barrier();
      });
    });
  }
}

TEST(ThreadRanks, AnAbortReachesEveryWaitingRank) {
  std::atomic<int> told{0};
  const auto start = Clock::now();
  expect_error(ErrorKind::peer_failed, {"rank 3 failed: the disk is full"}, [&] {
    run_thread_ranks(8, [&](Communicator& comm) {
      if (comm.rank() == 3) {
        sleep_ms(50);
        comm.abort("the disk is full");
        comm.abort("a second reason");
        return;
      }
      expect_error(ErrorKind::peer_failed, {"rank 3 failed: the disk is full"}, [&] { comm.barrier(); });
      ++told;
    });
  });
  EXPECT_EQ(told, 7);
  EXPECT_LT(seconds_since(start), 10);  // measured: 0.05 s, of which 0.05 s asleep
}

TEST(ThreadRanks, ATimeOutNamesTheRankThatDidNotCome) {
  const auto start = Clock::now();
  std::atomic<int> given_up{0};
  expect_error(ErrorKind::peer_failed, {"rank 2 failed", "it did not come to barrier within 0.2 s"}, [&] {
    run_thread_ranks(4,
                     [&](Communicator& comm) {
                       comm.barrier();
                       // The late rank learns that it was given up: it comes when all others have left.
                       if (comm.rank() == 2) {
                         while (given_up < 3) sleep_ms(1);
                         expect_error(ErrorKind::peer_failed, {"this rank (2)"}, [&] { comm.barrier(); });
                       }
                       const CountAtEnd count(given_up);
                       comm.barrier();
                     },
                     {.timeout_s = 0.2});
  });
  EXPECT_LT(seconds_since(start), 10);
}

TEST(ThreadRanks, ATimeOutBlamesNoRankThatWaitsItself) {
  // Rank 0 waits for rank 1, which waits for rank 2, which comes when both have left.
  std::atomic<int> given_up{0};
  expect_error(ErrorKind::peer_failed, {"rank 2 failed", "it did not come"}, [&] {
    run_thread_ranks(3,
                     [&](Communicator& comm) {
                       while (comm.rank() == 2 && given_up < 2) sleep_ms(1);
                       const CountAtEnd count(given_up);
                       if (comm.rank() != 0) GroupCommunicator(comm, {1, 2}).barrier();
                       comm.barrier();
                     },
                     {.timeout_s = 0.3});
  });
}

TEST(ThreadRanks, ATimeOutCountsFromTheLastArrival) {
  // Each rank comes 0.25 s after the one before: 1.75 s in all, which is more than the limit, but never half of it
  // without an arrival. A machine so busy that it was more may fail the ranks, and then they try again.
  constexpr int kRanks = 8, kStepMs = 250, kTries = 5;
  constexpr double kTimeoutS = 1.25;
  for (int i = 1;; ++i) {
    std::atomic<double> longest_s{0};
    std::atomic<Clock::time_point> last{Clock::now()};
    try {
      run_thread_ranks(kRanks,
                       [&](Communicator& comm) {
                         sleep_ms(kStepMs * comm.rank());
                         const Clock::time_point now = Clock::now();
                         longest_s = std::max<double>(longest_s, seconds_since(last.exchange(now)));
                         comm.barrier();
                       },
                       {.timeout_s = kTimeoutS});
      return;
    } catch (const Error& error) {
      if (longest_s < kTimeoutS / 2 || i == kTries) FAIL() << error.what() << "; longest pause " << longest_s << " s";
    }
  }
}

TEST(ThreadRanks, ARankThatReturnsEarlyIsNamed) {
  for (const int delay_ms : {0, 30}) {
    expect_error(ErrorKind::peer_failed, {"rank 1 failed", "ended", "barrier"}, [&] {
      run_thread_ranks(3, [&](Communicator& comm) {
        if (comm.rank() == 1) return sleep_ms(delay_ms);
        sleep_ms(30 - delay_ms);
        comm.barrier();
      });
    });
  }
}

TEST(ThreadRanks, ADroppedExchangeIsNamed) {
  expect_error(ErrorKind::peer_failed, {"rank 0 failed", "dropped"}, [] {
    run_thread_ranks(2, [](Communicator& comm) {
      AllToAll exchange(comm, 3, 1000);
      if (comm.rank() == 0) {
        { const Pending dropped = exchange.start(comm); }
        return;
      }
      sleep_ms(20);
      exchange.start(comm).wait();
      comm.barrier();
    });
  });
}

TEST(ThreadRanks, RanksThatDisagreeAreAnError) {
  expect_error(ErrorKind::internal, {"sends", "bytes", "expects"}, [] {
    run_thread_ranks(2, [](Communicator& comm) {
      std::vector<std::byte> buffer(static_cast<size_t>(comm.rank()) + 7);
      comm.broadcast(host_bytes(std::span(buffer)), 0).wait();
      comm.barrier();
    });
  });
  expect_error(ErrorKind::internal, {"barrier", "all_reduce"}, [] {
    run_thread_ranks(2, [](Communicator& comm) {
      std::vector<double> none;
      comm.rank() == 0 ? comm.barrier() : comm.all_reduce_sum(std::span(none));
    });
  });
}

// A backend's own way to copy, which memory of a GPU needs, holds in its groups too.
TEST(GroupCommunicator, CopiesToItselfAsItsParentDoes) {
  class Backend final : public Communicator {
   public:
    Backend() : Communicator(0, 1) {}
    void abort(std::string_view) noexcept override {}
    RankDevice& device() override { return device_; }
    int copies = 0;

   protected:
    std::unique_ptr<Operation> start(const char*, std::span<const SendTo>, std::span<const ReceiveFrom>,
                                     std::span<const int>) override {
      return nullptr;
    }
    void copy(ByteView to, ConstByteView from) override {
      ++copies;
      Communicator::copy(to, from);
    }

   private:
    HostRankDevice device_{*this};
  };
  Backend backend;
  GroupCommunicator half(backend, {0}), group(half, {0});
  const std::vector<int> sent{1, 2, 3};
  std::vector<int> received(3);
  const std::vector<Part> whole{{0, sizeof(int) * 3}};
  group.all_gather(host_bytes(std::span(sent)), host_bytes(std::span(received)), whole).wait();
  EXPECT_EQ(received, sent);
  EXPECT_EQ(backend.copies, 1);
}

TEST(Communicator, RefusesWhatCannotBe) {
  SelfCommunicator comm;
  std::vector<std::byte> bytes(8);
  const ByteView view = host_bytes(std::span(bytes));
  const std::vector<Part> whole{{0, 8}}, beyond{{1, 8}}, huge{{SIZE_MAX, 2}}, two{{0, 4}, {4, 4}};
  expect_error(ErrorKind::internal, {"outside", "8 bytes"}, [&] { comm.all_gather(view, view, beyond).wait(); });
  expect_error(ErrorKind::internal, {"outside"}, [&] { comm.all_gather(view, view, huge).wait(); });
  expect_error(ErrorKind::internal, {"one part a rank"}, [&] { comm.all_gather(view, view, two).wait(); });
  expect_error(ErrorKind::internal, {"rank 1", "world of 1"}, [&] { comm.broadcast(view, 1).wait(); });
  expect_error(ErrorKind::internal, {"itself"}, [&] { comm.all_gather({bytes.data(), 4, {}}, view, whole).wait(); });
  const ByteView on_gpu{bytes.data(), 8, Device{DeviceKind::cuda, 1}};
  expect_error(ErrorKind::device, {"cuda:1", "broadcast"},
               [&] { run_thread_ranks(2, [&](Communicator& ranks) { ranks.broadcast(on_gpu, 0).wait(); }); });
  expect_error(ErrorKind::internal, {"groups"}, [&] { GroupCommunicator(comm, {1}); });
  expect_error(ErrorKind::internal, {"each once"}, [&] { GroupCommunicator(comm, {0, 0}); });
  expect_error(ErrorKind::internal, {"at least one"}, [] { run_thread_ranks(0, [](Communicator&) {}); });
}

}  // namespace
}  // namespace nostos
