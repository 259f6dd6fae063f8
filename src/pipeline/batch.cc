// Implements how pictures are batched.
#include "pipeline/batch.h"

#include <algorithm>

#include "pipeline/adapters.h"

namespace nostos {

bool draws_together(const ResolvedRequest& a, const ResolvedRequest& b) {
  return a.drawn_height == b.drawn_height && a.drawn_width == b.drawn_width &&
         a.request.num_inference_steps == b.request.num_inference_steps && a.request.sigmas == b.request.sigmas &&
         std::ranges::equal(a.request.images, b.request.images, same_pixels) &&
         same_changes(a.request.adapters, b.request.adapters);
}

std::vector<Batch> batch_plan(std::span<const int64_t> rows, int64_t max_rows) {
  std::vector<Batch> batches;
  int64_t used = 0;
  for (size_t picture = 0; picture < rows.size(); ++picture) {
    if (batches.empty() || used + rows[picture] > max_rows) {
      batches.push_back({picture, 0, rows[picture] > max_rows});
      used = 0;
    }
    ++batches.back().count;
    used += rows[picture];
  }
  return batches;
}

int64_t max_batch_rows(Device device) { return device.kind == DeviceKind::cuda ? 4096 : 2048; }

}  // namespace nostos
