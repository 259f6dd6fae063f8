// Implements the agreement.
#include "pipeline/step_orders.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace nostos {
namespace {

/// Makes rank 0's values those of every rank.
void agree(Communicator& world, std::span<uint8_t> values) {
  if (world.world() > 1 && !values.empty()) world.broadcast(host_bytes(values), kRoot).wait();
}

bool is_set(const std::atomic<bool>* flag) { return flag != nullptr && *flag; }

}  // namespace

StepOrders::StepOrders(Communicator& world, std::span<const Progress> progress, bool can_show, HandsOver hands_over)
    : world_(world), progress_(progress), hands_over_(std::move(hands_over)) {
  const bool previews = std::ranges::any_of(progress, [](const Progress& p) { return p.on_preview != nullptr; });
  const bool cancel = std::ranges::any_of(progress, [](const Progress& p) { return p.cancel_together != nullptr; });
  uint8_t own[] = {can_show && previews, cancel || progress.size() > 1};
  agree(world, own);
  has_previews_ = own[0] != 0;
  can_cancel_ = own[1] != 0;
}

void StepOrders::drop_cancelled(std::span<Generation> requests) {
  if (!can_cancel_) return;
  std::vector<uint8_t> cancelled(requests.size());
  for (size_t i = 0; world_.rank() == kRoot && i < requests.size(); ++i) {
    const bool own = requests.size() > 1 && is_set(progress_[i].cancel);
    cancelled[i] = requests[i].cancelled || own || is_set(progress_[i].cancel_together);
  }
  agree(world_, cancelled);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].cancelled = cancelled[i] != 0;
  require(std::ranges::count(cancelled, 0) > 0, ErrorKind::cancelled, "cancelled");
}

std::vector<bool> StepOrders::previews(std::span<const Step> steps) {
  std::vector<uint8_t> wanted(steps.size());
  if (has_previews_) {
    for (size_t i = 0; world_.rank() == kRoot && i < steps.size(); ++i) {
      const Progress& progress = progress_[steps[i].request];
      wanted[i] = !steps[i].is_last && progress.on_preview && progress.wants_preview(steps[i].of);
    }
    agree(world_, wanted);
  }
  return {wanted.begin(), wanted.end()};
}

bool StepOrders::hands_over(int64_t done, int64_t all) {
  if (!hands_over_) return false;
  uint8_t own = world_.rank() == kRoot && hands_over_(done, all);
  agree(world_, {&own, 1});
  return own != 0;
}

}  // namespace nostos
