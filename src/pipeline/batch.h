// Owns which requests may be drawn together, and which images share a forward pass. These are pure functions: the
// engine and the server call the same ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "pipeline/request.h"

namespace nostos {

/// \return whether one drawing can serve both requests. Both must be drawn at the same size with the same noise levels,
/// so that their steps have the same times, and with the same images in the same order, of which the first is or is not
/// what both begin with, by the same strength and mask, and with the same control image and its settings. Prompts,
/// seeds, noise, guidance and numbers of images are each request's own.
bool draws_together(const ResolvedRequest& a, const ResolvedRequest& b);

/// Consecutive images that are denoised together, or prompts that are encoded together.
struct Batch {
  size_t first = 0;
  size_t count = 0;
  bool passes_apart = false;  ///< one picture whose passes run one after the other, not at once

  friend bool operator==(const Batch&, const Batch&) = default;
};

/// Deals images to batches in order. Each batch takes as many images as stay within `max_rows`, and at least one. An
/// image that is beyond `max_rows` by itself has its passes apart.
/// \param rows of each image: what its forward passes have together on one rank
std::vector<Batch> batch_plan(std::span<const int64_t> rows, int64_t max_rows);

/// \return how many rows a rank computes at once at most: as many as keep `device` busy. More rows would make everybody
/// in the batch wait, and take more memory.
int64_t max_batch_rows(Device device);

/// Runs `work` for request `index` of `count`. Where there are several requests, an Error that `work` throws names the
/// request.
template <class Work>
auto for_request(size_t index, size_t count, const Work& work) {
  try {
    return work();
  } catch (const Error& error) {
    if (count == 1) throw;
    fail(error.kind(), "request {} of {}: {}", index + 1, count, error.what());
  }
}

}  // namespace nostos
