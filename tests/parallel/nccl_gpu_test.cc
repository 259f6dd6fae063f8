// Tests NCCL between the GPUs of this machine, as many as there are up to eight; skips without two.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda/check.h"
#include "device/cuda/runtime.h"
#include "parallel/exchange_cases.h"
#include "parallel/nccl_communicator.h"
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

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
    if (gpus() < 2) GTEST_SKIP() << "NCCL wants two GPUs, there are " << gpus();
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

View host_view(std::vector<std::byte>& bytes) {
  return {bytes.data(), DType::u8, {static_cast<int64_t>(bytes.size())}};
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
      ranks
          .all_to_all(bytes_of(ctx, sent, exchange.send.size()), exchange.send_parts,
                      bytes_of(ctx, received, exchange.receive.size()), exchange.receive_parts)
          .wait();
      download(ctx, received, host_view(exchange.receive));
      ranks.wait_for_gpus(ctx, "test");
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
    cudaStream_t stream = ctx.stream().handle();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t step = nullptr;
    cuda::check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cannot capture");
    cuda::copy_async(sent.view().bytes(), source.view().bytes(), kBytes, stream);
    ranks.all_gather(bytes_of(ctx, sent, kBytes), bytes_of(ctx, all, gathered.size()), parts).wait();
    cuda::check_cuda(cudaStreamEndCapture(stream, &graph), "cannot end a capture");
    cuda::check_cuda(cudaGraphInstantiate(&step, graph, 0), "cannot make a graph");
    for (uint64_t round = 0; round < 5; ++round) {
      for (size_t i = 0; i < own.size(); ++i) own[i] = exchange_cases::byte_of(round, ranks.rank(), 0, i);
      upload(ctx, host_view(own), source);
      cuda::check_cuda(cudaGraphLaunch(step, stream), "cannot launch a graph");
      download(ctx, all, host_view(gathered));
      ranks.wait_for_gpus(ctx, "test");
      for (size_t i = 0; i < gathered.size(); ++i) {
        const int peer = static_cast<int>(i / kBytes);
        ASSERT_EQ(gathered[i], exchange_cases::byte_of(round, peer, 0, i % kBytes)) << "round " << round << " at " << i;
      }
    }
    cudaGraphExecDestroy(step);
    cudaGraphDestroy(graph);
  });
}

// The GPUs of the others wait for messages that never come.
TEST_F(Nccl, AFailureEndsTheExchangesUnderWay) {
  const auto start = std::chrono::steady_clock::now();
  try {
    run([](Context& ctx, NcclCommunicator& ranks) {
      Tensor own(ctx.device(), DType::u8, {1 << 20}), all(ctx.device(), DType::u8, {int64_t{ranks.world()} << 20});
      const std::vector<Part> parts =
          exchange_cases::lay_out(std::vector<size_t>(static_cast<size_t>(ranks.world()), 1 << 20));
      if (ranks.rank() == 1) fail(ErrorKind::out_of_memory, "no room");
      ranks.all_gather(bytes_of(ctx, own, 1 << 20), bytes_of(ctx, all, all.size_in_bytes()), parts).wait();
      ranks.wait_for_gpus(ctx, "test");
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
