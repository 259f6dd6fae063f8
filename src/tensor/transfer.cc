// Implements copies through page-locked staging memory.
#include "tensor/transfer.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/staging_ring.h"

namespace nostos {
namespace {

constexpr size_t kStagingBytes = size_t{64} << 20;
constexpr size_t kPieceBytes = size_t{8} << 20;  // copied to staging memory while the piece before it is on its way

/// A context's staging memory: a ring on the way to the GPU; on the way back a buffer a copy, which must keep its
/// contents until the host has waited.
class Staging {
 public:
  explicit Staging(Context& ctx) : memory_(ctx.device(), kStagingBytes), ring_(kStagingBytes) {}

  /// \return memory for `bytes`, at most kPieceBytes, until what in_flight() marks is done.
  std::byte* take(Context& ctx, size_t bytes) {
    while (!on_their_way_.empty() && on_their_way_.front().is_done()) give_back_oldest();
    std::optional<size_t> begin;
    while (!(begin = ring_.take(bytes))) {
      ctx.count_host_wait("staging memory");
      cuda::synchronize(on_their_way_.front().handle());
      give_back_oldest();
    }
    return memory_.data() + *begin;
  }

  PinnedBuffer take_landing(Context& ctx, size_t bytes) {
    const auto fits = [&](const PinnedBuffer& landing) { return landing.size_bytes() >= bytes; };
    const auto found = std::find_if(landings_.begin(), landings_.end(), fits);
    if (found == landings_.end()) return PinnedBuffer(ctx.device(), bytes);
    PinnedBuffer taken = std::move(*found);
    landings_.erase(found);
    return taken;
  }
  void give_back_landing(PinnedBuffer landing) { landings_.push_back(std::move(landing)); }

  /// The piece taken last is in use until everything enqueued on ctx.stream() so far is done.
  void in_flight(Context& ctx) {
    Event event = spare_.empty() ? Event(ctx.device()) : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    event.record(ctx.stream());
    on_their_way_.push_back(std::move(event));
  }

 private:
  void give_back_oldest() {
    ring_.give_back_oldest();
    spare_.push_back(std::move(on_their_way_.front()));
    on_their_way_.pop_front();
  }

  PinnedBuffer memory_;
  StagingRing ring_;
  std::deque<Event> on_their_way_;
  std::vector<Event> spare_;
  std::vector<PinnedBuffer> landings_;
};

/// Copies with the context's threads: one core does not fill the way to the GPU.
void parallel_memcpy(const Context& ctx, std::byte* to, const std::byte* from, size_t bytes) {
  constexpr size_t kGrain = size_t{1} << 20;
  const int64_t grains = static_cast<int64_t>((bytes + kGrain - 1) / kGrain);
#pragma omp parallel for num_threads(ctx.threads()) if (grains > 1)
  for (int64_t grain = 0; grain < grains; ++grain) {
    const size_t begin = static_cast<size_t>(grain) * kGrain;
    std::memcpy(to + begin, from + begin, std::min(kGrain, bytes - begin));
  }
}

void check_same(ConstView from, ConstView to) {
  check(from.dtype() == to.dtype() && from.shape() == to.shape(), "a copy keeps the dtype and the shape");
}

}  // namespace

void upload(Context& ctx, ConstView host, View to) {
  check_same(host, to);
  const size_t bytes = host.size_in_bytes();
  if (ctx.device().kind == DeviceKind::cpu) {
    if (bytes > 0) parallel_memcpy(ctx, to.bytes(), host.bytes(), bytes);
    return;
  }
  ctx.bind_thread();
  Staging& staging = ctx.state<Staging>();
  for (size_t begin = 0; begin < bytes; begin += kPieceBytes) {
    const size_t count = std::min(kPieceBytes, bytes - begin);
    std::byte* piece = staging.take(ctx, count);
    parallel_memcpy(ctx, piece, host.bytes() + begin, count);
    cuda::copy_async(to.bytes() + begin, piece, count, ctx.stream().handle());
    staging.in_flight(ctx);
  }
}

void download(Context& ctx, ConstView from, View host) {
  check_same(from, host);
  const size_t bytes = host.size_in_bytes();
  if (bytes == 0) return;
  if (ctx.device().kind == DeviceKind::cpu) {
    parallel_memcpy(ctx, host.bytes(), from.bytes(), bytes);
    return;
  }
  ctx.bind_thread();
  Staging& staging = ctx.state<Staging>();
  auto landing = std::make_shared<PinnedBuffer>(staging.take_landing(ctx, bytes));
  cuda::copy_async(landing->data(), from.bytes(), bytes, ctx.stream().handle());
  ctx.defer([&ctx, &staging, landing, to = host.bytes(), bytes] {
    parallel_memcpy(ctx, to, landing->data(), bytes);
    staging.give_back_landing(std::move(*landing));
  });
}

void Landing::fetch(Context& ctx, ConstView from) {
  const size_t bytes = from.size_in_bytes();
  if (memory_.size_bytes() < bytes) memory_ = PinnedBuffer(device_, bytes);
  dtype_ = from.dtype();
  shape_ = from.shape();
  ctx.bind_thread();
  ctx.stream().copy(memory_.data(), from.bytes(), bytes);
  landed_.record(ctx.stream());
}

}  // namespace nostos
