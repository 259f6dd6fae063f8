// Implements the choice among algorithms of a matrix product.
#include "ops/cuda/linear_tuning.h"

#include <algorithm>

namespace nostos::cuda {
namespace {

/// \return whether every row of the candidate has the bits of that row in `rows`, and there is any.
bool agrees(const AlgorithmTrial& trial, std::span<const uint64_t> rows) {
  bool serves = false;
  for (const std::vector<uint64_t>& digests : trial) {
    if (digests.empty()) continue;
    if (digests.size() > rows.size() || !std::ranges::equal(digests, rows.first(digests.size()))) return false;
    serves = true;
  }
  return serves;
}

/// \return whether each number of rows is served by one of the group.
bool serves_all(std::span<const AlgorithmTrial> trials, std::span<const size_t> group) {
  for (size_t n = 0; n < std::size(kSurveyRows); ++n) {
    if (std::ranges::none_of(group, [&](size_t i) { return n < trials[i].size() && !trials[i][n].empty(); }))
      return false;
  }
  return true;
}

}  // namespace

std::vector<size_t> choose_algorithm_group(std::span<const AlgorithmTrial> trials) {
  std::vector<size_t> largest;
  for (const AlgorithmTrial& leader : trials) {
    if (leader.empty() || leader.back().empty()) continue;
    std::vector<size_t> group;
    for (size_t i = 0; i < trials.size(); ++i) {
      if (agrees(trials[i], leader.back())) group.push_back(i);
    }
    if (group.size() > largest.size() && agrees(leader, leader.back()) && serves_all(trials, group))
      largest = std::move(group);
  }
  return largest;
}

int64_t row_bucket(int64_t rows) { return std::min((rows + 63) / 64 * 64, kLargestBucket); }

}  // namespace nostos::cuda
