// Implements the seam on NCCL, with a communicator that never blocks the host, so that a dead peer can be left.
#include "parallel/nccl_link.h"

#include <nccl.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "device/cuda/check.h"
#include "device/cuda/runtime.h"

namespace nostos {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kFinalizeTime{10};  // for peers to end their part of the last messages
constexpr std::chrono::seconds kAbortTime{5};      // for NCCL to let go of what it has shared with peers

std::atomic<int> links_ending{0};  // of the process, like NCCL's own state

ErrorKind error_kind(ncclResult_t result) {
  switch (result) {
    case ncclRemoteError:
      return ErrorKind::peer_failed;
    case ncclInvalidUsage:
      return ErrorKind::device;  // two ranks on one GPU, say
    default:
      return ErrorKind::internal;
  }
}

/// \throws Error unless `result` is success or under way; peer_failed where NCCL blames another rank.
void check_nccl(ncclResult_t result, ncclComm_t comm, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  cuda::check_not_lost("NCCL failed");
  fail(error_kind(result), "{}: NCCL says: {}: {} (NCCL_DEBUG=WARN in the environment shows more)", what,
       ncclGetErrorString(result), ncclGetLastError(comm));
}

class NcclLink final : public GpuLink {
 public:
  NcclLink(const ncclUniqueId& id, int rank, int world, Device gpu) : gpu_(gpu) {
    cuda::device_properties(gpu.index);
    cuda::use_device(gpu.index);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check_nccl(ncclCommInitRankConfig(&comm_, world, id, rank, &config), comm_, "cannot connect the GPUs");
  }

  ~NcclLink() override {
    if (comm_ != nullptr && finalize()) ncclCommDestroy(std::exchange(comm_, nullptr));
    abort();
    if (aborted_.valid() && aborted_.wait_for(kAbortTime) != std::future_status::ready)
      log_warning("NCCL still holds memory of {}, for its link to the other ranks would not end", to_string(gpu_));
  }

  Device device() const override { return gpu_; }

  bool is_ready() override {
    require(comm_ != nullptr, ErrorKind::internal, "the link between the GPUs was aborted");
    ncclResult_t state = ncclSuccess;
    check_nccl(ncclCommGetAsyncError(comm_, &state), comm_, "cannot ask for the state of the GPUs' link");
    check_nccl(state, comm_, "the link between the GPUs failed");
    return state == ncclSuccess;
  }

  void send_receive(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, Stream& stream) override {
    require(comm_ != nullptr, ErrorKind::internal, "the link between the GPUs was aborted");
    cuda::use_device(gpu_.index);
    check_nccl(ncclGroupStart(), comm_, "cannot begin an exchange between GPUs");
    for (const SendTo& send : sends) {
      check_nccl(ncclSend(send.bytes.data, send.bytes.bytes, ncclInt8, send.peer, comm_, stream.handle()), comm_,
                 "cannot send to another GPU");
    }
    for (const ReceiveFrom& receive : receives) {
      check_nccl(ncclRecv(receive.bytes.data, receive.bytes.bytes, ncclInt8, receive.peer, comm_, stream.handle()),
                 comm_, "cannot receive from another GPU");
    }
    check_nccl(ncclGroupEnd(), comm_, "cannot exchange between GPUs");
  }

  void copy(ByteView to, ConstByteView from, Stream& stream) override {
    cuda::copy_async(to.data, from.data, from.bytes, stream.handle());
  }

  void abort() noexcept override {
    if (comm_ == nullptr) return;
    // NCCL ends its kernels at once, but returns only when the graphs that hold messages of the link are gone: those
    // are the caller's, who may have to hear of the failure first.
    const ncclComm_t comm = std::exchange(comm_, nullptr);
    ++links_ending;
    try {
      const auto done = std::make_shared<std::promise<void>>();
      aborted_ = done->get_future();
      std::thread([comm, done] {
        ncclCommAbort(comm);
        --links_ending;
        done->set_value();
      }).detach();
    } catch (const std::exception&) {
      ncclCommAbort(comm);  // no thread is to be had
      --links_ending;
    }
  }

 private:
  /// \return whether all ranks have ended their messages within kFinalizeTime.
  bool finalize() {
    ncclResult_t state = ncclCommFinalize(comm_);
    const auto deadline = Clock::now() + kFinalizeTime;
    while (state == ncclInProgress && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) return false;
    }
    return state == ncclSuccess;
  }

  Device gpu_;
  ncclComm_t comm_ = nullptr;
  std::future<void> aborted_;  // of an abort under way
};

}  // namespace

bool built_with_nccl() { return true; }

bool is_ending_a_link() { return links_ending > 0; }

std::unique_ptr<GpuLink> connect_gpus(Communicator& host, Device gpu) {
  check(gpu.kind == DeviceKind::cuda, "NCCL connects GPUs");
  ncclUniqueId id{};
  if (host.rank() == 0) check_nccl(ncclGetUniqueId(&id), nullptr, "cannot begin to connect the GPUs");
  host.broadcast(host_bytes(std::span<char>(id.internal)), 0).wait();
  int version = 0;
  if (ncclGetVersion(&version) == ncclSuccess)
    log_debug("rank {} connects {} by NCCL {} (built with {})", host.rank(), to_string(gpu), version,
              NCCL_VERSION_CODE);
  return std::make_unique<NcclLink>(id, host.rank(), host.world(), gpu);
}

}  // namespace nostos
