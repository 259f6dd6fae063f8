// Implements how pictures are batched.
#include "pipeline/batch.h"

#include <algorithm>

#include "pipeline/adapters.h"

namespace nostos {

namespace {

bool same_image(const std::optional<ReferenceImage>& a, const std::optional<ReferenceImage>& b) {
  return a.has_value() == b.has_value() && (!a || same_pixels(*a, *b));
}

bool same_mask(const std::optional<Mask>& a, const std::optional<Mask>& b) {
  return a.has_value() == b.has_value() && (!a || (a->blur == b->blur && same_pixels(a->image, b->image)));
}

bool begin_alike(const ResolvedRequest& a, const ResolvedRequest& b) {
  if (a.has_source != b.has_source) return false;
  return !a.has_source || (a.first_step == b.first_step && a.request.image_fit == b.request.image_fit &&
                           a.request.height == b.request.height && a.request.width == b.request.width &&
                           same_mask(a.request.mask, b.request.mask));
}

bool follow_alike(const ResolvedRequest& a, const ResolvedRequest& b) {
  if (a.control_scales != b.control_scales) return false;
  if (!a.has_control()) return true;
  const Control &one = *a.request.control, &other = *b.request.control;
  return one.preprocessor == other.preprocessor && same_image(one.image, other.image) &&
         a.request.image_fit == b.request.image_fit && a.request.height == b.request.height &&
         a.request.width == b.request.width;
}

}  // namespace

bool draws_together(const ResolvedRequest& a, const ResolvedRequest& b) {
  return a.drawn_height == b.drawn_height && a.drawn_width == b.drawn_width &&
         a.request.num_inference_steps == b.request.num_inference_steps && a.request.sigmas == b.request.sigmas &&
         std::ranges::equal(a.request.images, b.request.images, same_pixels) && begin_alike(a, b) &&
         follow_alike(a, b) && same_changes(a.request.adapters, b.request.adapters);
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
