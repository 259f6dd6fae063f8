// Owns which requests may be drawn together, and which pictures share a forward pass: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/device.h"
#include "pipeline/request.h"

namespace nostos {

/// \return whether one drawing can serve both requests: they are drawn at the same size with the same noise levels, so
/// that their steps have the same times. Prompts, seeds, noise, guidance and numbers of pictures are each request's own.
bool draws_together(const ResolvedRequest& a, const ResolvedRequest& b);

/// Consecutive pictures that are denoised together, or captions that are encoded together.
struct Batch {
  size_t first = 0;
  size_t count = 0;
  bool passes_apart = false;  ///< one picture whose passes run one after the other, not at once

  friend bool operator==(const Batch&, const Batch&) = default;
};

/// Deals pictures to batches in order: as many to each as stay within `max_rows`, at least one. A picture that is beyond
/// it by itself has its passes apart.
/// \param rows that the forward passes of each picture have together on one rank.
std::vector<Batch> batch_plan(std::span<const int64_t> rows, int64_t max_rows);

/// \return how many rows a rank computes at once at most: what keeps `device` busy. More would only make everybody in
/// the batch wait, and take more memory.
int64_t max_batch_rows(Device device);

/// Runs `work` for request `index` of `count`: where there are several, an Error that it throws says whose it is.
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
