// Implements the agreement.
#include "pipeline/step_orders.h"

#include <array>

#include "base/error.h"

namespace nostos {
namespace {

constexpr int kRoot = 0;

/// \return rank 0's values on every rank.
std::array<uint8_t, 2> agree(Communicator& world, std::array<uint8_t, 2> own) {
  if (world.world() > 1) world.broadcast(host_bytes(std::span<uint8_t>(own)), kRoot).wait();
  return own;
}

}  // namespace

StepOrders::StepOrders(Communicator& world, const Progress& progress) : world_(world), progress_(progress) {
  const auto [previews, cancel] = agree(world, {progress.on_preview != nullptr, progress.cancel_together != nullptr});
  has_previews_ = previews != 0;
  can_cancel_ = cancel != 0;
}

bool StepOrders::wants_preview(int64_t step, bool is_last) {
  if (!has_previews_ && !can_cancel_) return false;
  std::array<uint8_t, 2> own{};
  if (world_.rank() == kRoot) {
    own[0] = has_previews_ && !is_last && progress_.wants_preview(step);
    own[1] = can_cancel_ && *progress_.cancel_together;
  }
  const auto [preview, cancel] = agree(world_, own);
  if (cancel != 0) fail(ErrorKind::cancelled, "cancelled");
  return preview != 0;
}

}  // namespace nostos
