// Owns what a rank keeps from one drawing to the next: the memory of its runs, and what was left in it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "device/arena.h"
#include "device/context.h"
#include "device/graph.h"
#include "pipeline/model_parts.h"
#include "pipeline/parallelism.h"
#include "pipeline/sampler.h"

namespace nostos {

/// What the layout of a drawing's memory and a recorded step depend on.
struct DrawingShape {
  const ModelParts* model = nullptr;
  Parallelism parallelism{};
  int rank = 0;
  int64_t height = 0, width = 0, steps = 0;
  std::vector<int64_t> caption_tokens{};  ///< of each caption, padded
  std::vector<PicturePlan> pictures{};

  friend bool operator==(const DrawingShape&, const DrawingShape&) = default;
};

/// One arena, a state of the rank's context: drawings follow each other in it, laid out anew by each, so that a drawing
/// that is no larger than one before allocates nothing.
class RankMemory {
 public:
  explicit RankMemory(Context& ctx) : arena_(ctx.device()) {}

  /// \return what `take(Arena&)` takes, in memory that is grown where it is too small. What a drawing of another shape
  /// has left there is forgotten.
  /// \param make_room called with the bytes before memory is taken, while this has none. \throws Error out_of_memory
  template <class Take, class MakeRoom>
  auto lay_out(const DrawingShape& shape, const Take& take, const MakeRoom& make_room) {
    Arena measure(arena_.device());
    take(measure);
    bytes_ = measure.peak_bytes();
    if (!(shape == shape_)) forget();
    shape_ = shape;
    if (arena_.capacity_bytes() < bytes_) {
      release();
      make_room(bytes_);
      arena_ = Arena(measure.device(), bytes_);
    }
    arena_.rewind(0);
    return take(arena_);
  }

  /// \return bytes of the last layout.
  size_t bytes() const { return bytes_; }
  /// \return what the last sampler left.
  SamplerLeft& left() { return left_; }
  /// \return the recorded decode of picture `index` of the drawing; empty until the caller has recorded it.
  Graph& decode(size_t index) { return decodes_[index]; }
  /// \return whether a drawing has left anything.
  bool has_left() const { return left_.has_positions; }
  /// Forgets what the last sampler left, and recorded decodes.
  void forget() {
    left_ = {};
    decodes_.clear();
  }
  /// Gives the memory back, and forgets what was left in it.
  void release() {
    forget();
    arena_ = Arena(arena_.device());
  }

 private:
  Arena arena_;
  size_t bytes_ = 0;
  DrawingShape shape_;
  SamplerLeft left_;
  std::map<size_t, Graph> decodes_;
};

}  // namespace nostos
