// Tests NCCL between the GPUs of this machine, as many as there are up to eight, and on one with itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "device/cuda/runtime.h"
#include "device/graph.h"
#include "parallel/exchange_cases.h"
#include "parallel/nccl_communicator.h"
#include "parallel/peer_memory.h"
#include "parallel/self_communicator.h"
#include "parallel/thread_communicator.h"
#include "tensor/tensor.h"
#include "tensor/transfer.h"

namespace nostos {
namespace {

int gpus() {
  try {
    return std::min(cuda::device_count(), 8);
  } catch (const Error&) {
    return 0;
  }
}

/// One GPU whose messages to itself NCCL carries as those between two; the ranks of a communicator copy theirs.
class NcclOnOneGpu : public testing::Test {
 protected:
  static constexpr int64_t kBytes = 1 << 20;

  void SetUp() override {
    if (gpus() < 1) GTEST_SKIP() << "NCCL wants a GPU";
    ctx_ = std::make_unique<Context>(Device{DeviceKind::cuda, 0}, 1);
    ctx_->bind_thread();
    link_ = connect_gpus(host_, ctx_->device());
    wait_until_ready();
    source_ = Tensor(ctx_->device(), DType::u8, {kBytes});
    target_ = Tensor(ctx_->device(), DType::u8, {kBytes});
    communication_ = std::make_unique<Stream>(ctx_->device());
  }

  void wait_until_ready() {
    while (!link_->is_ready()) std::this_thread::yield();
  }

  /// Enqueues source -> target on a stream beside ctx_'s, in order with it.
  void exchange() {
    Event ready(ctx_->device()), received(ctx_->device());
    ready.record(ctx_->stream());
    communication_->wait(ready);
    const ConstByteView from{source_.view().bytes(), kBytes, ctx_->device()};
    const ByteView to{target_.view().bytes(), kBytes, ctx_->device()};
    link_->send_receive(std::array{SendTo{0, from}}, std::array{ReceiveFrom{0, to}}, *communication_);
    wait_until_ready();
    received.record(*communication_);
    ctx_->stream().wait(received);
  }

  /// Expects that `enqueue` brings bytes of `round` from source to target.
  template <class Enqueue>
  void expect_carried(uint64_t round, const Enqueue& enqueue) {
    Tensor sent(Device{}, DType::u8, {kBytes}), received(Device{}, DType::u8, {kBytes});
    for (int64_t i = 0; i < kBytes; ++i)
      sent.data<uint8_t>()[i] = static_cast<uint8_t>(exchange_cases::byte_of(round, 0, 0, static_cast<size_t>(i)));
    upload(*ctx_, sent, source_);
    enqueue();
    download(*ctx_, target_, received);
    ctx_->synchronize("test");
    EXPECT_TRUE(std::equal(sent.data<uint8_t>(), sent.data<uint8_t>() + kBytes, received.data<uint8_t>())) << round;
  }

  SelfCommunicator host_;
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<GpuLink> link_;
  Tensor source_, target_;
  std::unique_ptr<Stream> communication_;
};

TEST_F(NcclOnOneGpu, CarriesMessages) {
  for (uint64_t round = 0; round < 5; ++round) expect_carried(round, [this] { exchange(); });
}

TEST_F(NcclOnOneGpu, IsRecorded) {
  exchange();
  const Graph step = Graph::record(*ctx_, [this] { exchange(); });
  for (uint64_t round = 0; round < 5; ++round) {
    expect_carried(2 * round, [&] { step.launch(*ctx_); });
    expect_carried(2 * round + 1, [this] { exchange(); });
  }
}

// NCCL's own abort does not return before the recording is gone.
TEST_F(NcclOnOneGpu, AnAbortReturnsWhileARecordingLives) {
  const auto start = std::chrono::steady_clock::now();
  exchange();
  {
    const Graph step = Graph::record(*ctx_, [this] { exchange(); });
    step.launch(*ctx_);
    link_->abort();
    ctx_->abandon_work();
  }
  EXPECT_THROW(link_->is_ready(), Error);
  link_.reset();
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 4);  // not the time-out
}

View host_view(std::vector<std::byte>& bytes) {
  return {bytes.data(), DType::u8, {static_cast<int64_t>(bytes.size())}};
}

/// Ranks that are threads, on a GPU each where there are so many, otherwise all on one.
class GpusThatShareMemory : public testing::TestWithParam<int> {
 protected:
  static constexpr int64_t kBytes = 1 << 20;

  void SetUp() override {
    if (gpus() < 1) GTEST_SKIP() << "kernels run on a GPU";
  }

  /// Runs `body` on ranks that may write to one another's memory.
  static void run(const std::function<void(Context&, Communicator& host, PeerMemory&)>& body) {
    run_thread_ranks(GetParam(), [&](Communicator& host) {
      Context ctx({DeviceKind::cuda, gpus() >= GetParam() ? host.rank() : 0}, 1);
      ctx.bind_thread();
      const std::unique_ptr<PeerMemory> memory = open_peer_memory(host, ctx.device());
      ASSERT_NE(memory, nullptr) << "GPUs of one host that do not reach each other";
      body(ctx, host, *memory);
    });
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, GpusThatShareMemory, testing::Values(2, 3, 4));

// Each rank writes a part of every rank's memory, and copies its own once all have; recorded and not, round by round.
TEST_P(GpusThatShareMemory, SeeWhatWasWrittenBeforeTheyMet) {
  run([](Context& ctx, Communicator& host, PeerMemory& memory) {
    const size_t world = static_cast<size_t>(host.world());
    std::vector<int> everyone;
    for (int rank = 0; rank < host.world(); ++rank) everyone.push_back(rank);
    Tensor source(ctx.device(), DType::u8, {kBytes}), all(ctx.device(), DType::u8, {kBytes * host.world()});
    Tensor copied(ctx.device(), DType::u8, all.shape());
    std::vector<std::byte*> places(world);
    std::vector<Part> parts;
    for (size_t rank = 0; rank < world; ++rank) parts.push_back({rank * sizeof(std::byte*), sizeof(std::byte*)});
    std::byte* const own_place = all.view().bytes();
    host.all_gather(host_bytes(std::span(&own_place, 1)), host_bytes(std::span(places)), parts).wait();
    const auto fence = [&] {  // no call of CUDA waits while one has enqueued it and another has not
      host.barrier();
      memory.fence(everyone, ctx.stream());
      host.barrier();
    };
    const auto step = [&] {
      fence();  // all have copied what was written before
      for (std::byte* const place : places)
        cuda::copy_async(place + host.rank() * kBytes, source.view().bytes(), kBytes, ctx.stream().handle());
      fence();
      cuda::copy_async(copied.view().bytes(), all.view().bytes(), all.size_in_bytes(), ctx.stream().handle());
    };
    step();
    ctx.synchronize("test");
    const Graph recorded = Graph::record(ctx, step);
    std::vector<std::byte> own(kBytes), got(kBytes * world);
    for (uint64_t round = 0; round < 20; ++round) {
      for (size_t i = 0; i < own.size(); ++i) own[i] = exchange_cases::byte_of(round, host.rank(), 0, i);
      upload(ctx, host_view(own), source);
      host.barrier();
      if (round % 3 == 0)
        step();
      else
        recorded.launch(ctx);
      host.barrier();
      download(ctx, copied, host_view(got));
      ctx.synchronize("test");
      for (size_t i = 0; i < got.size(); i += 97) {
        const int peer = static_cast<int>(i / kBytes);
        ASSERT_EQ(got[i], exchange_cases::byte_of(round, peer, 0, i % kBytes)) << "round " << round << " at " << i;
      }
    }
    host.barrier();  // nobody frees what others write to
  });
}

TEST_P(GpusThatShareMemory, AnAbortEndsTheWaitForOneThatNeverComes) {
  const auto start = std::chrono::steady_clock::now();
  run([](Context& ctx, Communicator& host, PeerMemory& memory) {
    if (host.rank() > 0) {
      for (int i = 0; i < 3; ++i) memory.fence(std::array{0, host.rank()}, ctx.stream());
      memory.abort();
    }
    ctx.synchronize("test");
    host.barrier();
  });
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 5);
}

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (gpus() < 1) GTEST_SKIP() << "NCCL wants a GPU";
  }

  /// Runs `body` on a rank a GPU.
  template <class Body>
  static void run(const Body& body, const CommunicatorOptions& options = {}) {
    run_thread_ranks(
        gpus(),
        [&](Communicator& host) {
          Context ctx({DeviceKind::cuda, host.rank()}, 1);
          ctx.bind_thread();
          NcclCommunicator ranks(host, ctx.device(), options);
          ranks.order_with(ctx.stream());
          body(ctx, ranks);
        },
        options);
  }
};

ByteView bytes_of(const Context& ctx, Tensor& tensor, size_t bytes) {
  return {tensor.view().bytes(), bytes, ctx.device()};
}

TEST_F(Nccl, ExchangesBitForBit) {
  run([](Context& ctx, NcclCommunicator& ranks) {
    for (int round = 0; round < 40; ++round) {
      exchange_cases::AllToAll exchange(ranks, static_cast<uint64_t>(round), round % 4 == 0 ? 4 << 20 : 3000);
      exchange.send.resize(exchange.send.size() + 1);  // no tensor is empty
      Tensor sent(ctx.device(), DType::u8, host_view(exchange.send).shape());
      Tensor received(ctx.device(), DType::u8, host_view(exchange.receive).shape());
      upload(ctx, host_view(exchange.send), sent);
      upload(ctx, host_view(exchange.receive), received);
      exchange_cases::all_to_all(ranks, bytes_of(ctx, sent, exchange.send.size()), exchange.send_parts,
                                 bytes_of(ctx, received, exchange.receive.size()), exchange.receive_parts)
          .wait();
      download(ctx, received, host_view(exchange.receive));
      ranks.synchronize(ctx, "test");
      exchange.verify();
    }
  });
}

TEST_F(Nccl, ExchangesHostBuffersBesides) {
  run([](Context&, NcclCommunicator& ranks) { exchange_cases::everything(ranks, 8); });
}

// The buffers are written, exchanged and read by a graph that is replayed.
TEST_F(Nccl, ExchangesAreCapturedInAGraph) {
  run([](Context& ctx, NcclCommunicator& ranks) {
    constexpr int64_t kBytes = 100000;
    const size_t world = static_cast<size_t>(ranks.world());
    std::vector<std::byte> own(kBytes), gathered(kBytes * world);
    Tensor source(ctx.device(), DType::u8, {kBytes}), sent(ctx.device(), DType::u8, {kBytes});
    Tensor all(ctx.device(), DType::u8, {kBytes * ranks.world()});
    const std::vector<Part> parts = exchange_cases::lay_out(std::vector<size_t>(world, kBytes));
    const Graph step = Graph::record(ctx, [&] {
      cuda::copy_async(sent.view().bytes(), source.view().bytes(), kBytes, ctx.stream().handle());
      ranks.all_gather(bytes_of(ctx, sent, kBytes), bytes_of(ctx, all, gathered.size()), parts).wait();
    });
    for (uint64_t round = 0; round < 5; ++round) {
      for (size_t i = 0; i < own.size(); ++i) own[i] = exchange_cases::byte_of(round, ranks.rank(), 0, i);
      upload(ctx, host_view(own), source);
      step.launch(ctx);
      download(ctx, all, host_view(gathered));
      ranks.synchronize(ctx, "test");
      for (size_t i = 0; i < gathered.size(); ++i) {
        const int peer = static_cast<int>(i / kBytes);
        ASSERT_EQ(gathered[i], exchange_cases::byte_of(round, peer, 0, i % kBytes)) << "round " << round << " at " << i;
      }
    }
  });
}

// The GPUs of the others wait for messages that never come.
TEST_F(Nccl, AFailureEndsTheExchangesUnderWay) {
  if (gpus() < 2) GTEST_SKIP() << "two ranks want two GPUs, there are " << gpus();
  const auto start = std::chrono::steady_clock::now();
  try {
    run([](Context& ctx, NcclCommunicator& ranks) {
      Tensor own(ctx.device(), DType::u8, {1 << 20}), all(ctx.device(), DType::u8, {int64_t{ranks.world()} << 20});
      const std::vector<Part> parts =
          exchange_cases::lay_out(std::vector<size_t>(static_cast<size_t>(ranks.world()), 1 << 20));
      if (ranks.rank() == 1) fail(ErrorKind::out_of_memory, "no room");
      ranks.all_gather(bytes_of(ctx, own, 1 << 20), bytes_of(ctx, all, all.size_in_bytes()), parts).wait();
      ranks.synchronize(ctx, "test");
      ADD_FAILURE() << "rank " << ranks.rank() << " did not notice";
    });
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::out_of_memory) << error.what();
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 30);
}

}  // namespace
}  // namespace nostos
