// Owns what callers say of lanes: which of an engine's ranks draw together, and how that changes between two steps.
// Engine::draw() takes it.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <vector>

namespace nostos {

/// Some of an engine's ranks that draw together. An engine's ranks have *places*, from 0 to Engine::places() - 1.
struct Lane {
  /// Each once; the first is the root of the drawing. What a lane keeps for the next drawing it keeps for one order:
  /// name the same places in the same order.
  std::vector<int> places{};
  /// Whether each branch of guidance has half of the places: an even number of them, and guided requests alone.
  bool halves = false;

  friend auto operator<=>(const Lane&, const Lane&) = default;
};

/// Where a drawing stands between two steps. Steps are counted over all images: two images of eight steps have sixteen.
struct LaneStep {
  Lane lane{};  ///< that drew so far
  int64_t steps_done = 0, steps = 0;
};

/// How the lane of a drawing changes. Both functions are called on the thread that called Engine::draw().
struct LaneChange {
  /// Asked before each denoising step. It must not wait, and may be empty: then the lane stays.
  /// \return the lane that draws on, of places that the drawing has or that are free. Those are the drawing's from now
  /// on.
  std::function<Lane(const LaneStep& at)> next{};
  /// Told after each change, once the places that the drawing has given away are free.
  std::function<void(const Lane& now)> changed{};
};

}  // namespace nostos
