// Implements meetings of GPUs by counters in their memory: each writes its round to all others and waits for theirs.
#include <cuda/atomic>

#include <cstring>
#include <random>
#include <vector>

#include "device/buffer.h"
#include "device/cuda/check.h"
#include "device/cuda/runtime.h"
#include "parallel/peer_memory.h"

namespace nostos {
namespace {

using cuda::check_cuda;

constexpr int kMostRanks = 64;  // of a process

/// Passed by value: thread i meets the i-th peer.
struct Meeting {
  int peers = 0;
  int peer[kMostRanks];
  uint32_t* theirs[kMostRanks];  ///< where the peer waits for this rank
  uint32_t* arrived;             ///< by rank: the last round that it has come to with this one
  uint32_t* rounds;              ///< by rank: the last round of this rank with it
  const volatile uint32_t* aborted;
};

/// Writes of the kernels before it are released, for the order of a stream carries over: a peer's kernels after the
/// same meeting see them.
__global__ void __launch_bounds__(kMostRanks) meeting_kernel(const __grid_constant__ Meeting meeting) {
  using Flag = ::cuda::atomic_ref<uint32_t, ::cuda::thread_scope_system>;
  constexpr uint32_t kPollsALook = 256;  // at the host's memory, which is far
  const int i = static_cast<int>(threadIdx.x);
  if (i >= meeting.peers) return;
  const int peer = meeting.peer[i];
  const uint32_t round = ++meeting.rounds[peer];
  Flag(*meeting.theirs[i]).store(round, ::cuda::memory_order_release);
  const Flag arrived(meeting.arrived[peer]);
  for (uint32_t polls = 1; static_cast<int32_t>(arrived.load(::cuda::memory_order_acquire) - round) < 0; ++polls)
    if (polls % kPollsALook == 0 && *meeting.aborted != 0) return;
}

class CudaPeerMemory final : public PeerMemory {
 public:
  /// Every rank calls it, its GPU having access to all others.
  CudaPeerMemory(Communicator& host, Device gpu)
      : gpu_(gpu), rank_(host.rank()), aborted_(gpu, sizeof(uint32_t)), flags_(gpu, 2 * bytes_of(host.world())) {
    cuda::use_device(gpu.index);
    // Loaded with the first launch, it might wait for a GPU that waits for this rank.
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, meeting_kernel), "cannot load the GPUs' meetings");
    check_cuda(cudaMemset(flags_.data(), 0, flags_.size_bytes()), "cannot clear the GPUs' meetings");
    check_cuda(cudaDeviceSynchronize(), "cannot clear the GPUs' meetings");
    std::memset(aborted_.data(), 0, aborted_.size_bytes());
    theirs_ = host.gather(arrived());
  }
  ~CudaPeerMemory() override { CudaPeerMemory::abort(); }

  void fence(std::span<const int> members, Stream& stream) override {
    Meeting meeting;
    for (const int peer : members) {
      if (peer == rank_) continue;
      meeting.peer[meeting.peers] = peer;
      meeting.theirs[meeting.peers++] = theirs_[static_cast<size_t>(peer)] + rank_;
    }
    meeting.arrived = arrived();
    meeting.rounds = arrived() + theirs_.size();
    meeting.aborted = aborted_word();
    cuda::use_device(gpu_.index);
    meeting_kernel<<<1, kMostRanks, 0, stream.handle()>>>(meeting);
    cuda::check_launch("meeting of GPUs");
  }

  void abort() noexcept override { *aborted_word() = 1; }

 private:
  static size_t bytes_of(int world) { return static_cast<size_t>(world) * sizeof(uint32_t); }
  uint32_t* arrived() const { return reinterpret_cast<uint32_t*>(flags_.data()); }
  volatile uint32_t* aborted_word() const { return reinterpret_cast<volatile uint32_t*>(aborted_.data()); }

  Device gpu_;
  int rank_;
  PinnedBuffer aborted_;  // a word that the GPU looks at
  Buffer flags_;          // arrived and rounds of Meeting
  std::vector<uint32_t*> theirs_;
};

/// \return a number that no other process has.
uint64_t process_number() {
  static const uint64_t number = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return number;
}

/// Lets the calling thread's GPU reach the memory of `peer`. \return whether it does now.
bool reach(Device gpu, int peer) {
  if (gpu.index == peer) return true;
  int can = 0;
  if (cudaDeviceCanAccessPeer(&can, gpu.index, peer) != cudaSuccess || can == 0) return false;
  const cudaError_t status = cudaDeviceEnablePeerAccess(peer, 0);
  cudaGetLastError();  // it is no error to have more peers than a GPU can reach, or to have been asked before
  return status == cudaSuccess || status == cudaErrorPeerAccessAlreadyEnabled;
}

}  // namespace

std::unique_ptr<PeerMemory> open_peer_memory(Communicator& host, Device gpu) {
  if (host.world() == 1 || host.world() > kMostRanks) return nullptr;
  struct Place {
    uint64_t process;
    int64_t gpu;
  };
  const Place own{process_number(), gpu.index};
  const std::vector<Place> places = host.gather(own);

  cuda::device_properties(gpu.index);
  cuda::use_device(gpu.index);
  int64_t refusals = 0;
  for (const auto& [process, index] : places)
    refusals += refusals > 0 || process != own.process || !reach(gpu, static_cast<int>(index));
  host.all_reduce_sum(std::span(&refusals, 1));
  if (refusals > 0) return nullptr;
  return std::make_unique<CudaPeerMemory>(host, gpu);
}

}  // namespace nostos
