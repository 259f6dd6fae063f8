// Owns the memory that a rank keeps from one drawing to the next: when the memory grows and shrinks, and what a drawing
// has left in it. draw() lays every drawing out in it.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <vector>

#include "base/lru_cache.h"
#include "device/arena.h"
#include "device/graph.h"
#include "pipeline/batch.h"
#include "pipeline/model_parts.h"
#include "pipeline/parallelism.h"
#include "pipeline/sampler.h"

namespace nostos {

/// What the layout of a drawing's memory and a recorded step depend on.
struct DrawingShape {
  const ModelParts* model = nullptr;
  uint64_t weights = 0;  ///< ModelParts::version()
  Parallelism parallelism{};
  int rank = 0;
  std::vector<int> lane{};  ///< the places of all ranks
  int64_t height = 0, width = 0, steps = 0;
  std::vector<int64_t> caption_tokens{};     ///< rows of each prompt embedding
  size_t images = 0;
  std::vector<PicturePlan> pictures{};       ///< of those that are not done
  std::vector<Batch> batches{};              ///< of these
  std::vector<parallel::Grid> references{};  ///< the token grid of each
  bool has_source = false, has_mask = false, has_control = false, has_control_image = false;

  friend bool operator==(const DrawingShape&, const DrawingShape&) = default;
};

/// What a recorded encoding of prompts depends on: the length of each prompt, where the embeddings are, and where in
/// the arena the encoding's other memory begins.
struct CaptionKey {
  std::vector<PromptLength> lengths;
  const std::byte* embeddings = nullptr;
  size_t kept = 0, scratch = 0;

  friend auto operator<=>(const CaptionKey&, const CaptionKey&) = default;
};

/// Two arenas: one of captions and what makes them, one of all else. Each drawing lays the arenas out anew. A drawing
/// that is no larger than an earlier one allocates nothing. The memory shrinks once a long row of drawings were all far
/// smaller than the memory. What was recorded in it is kept for the shapes of late as long as the memory stays in its
/// place: lanes take turns on a rank, each with shapes of its own.
class RankMemory {
 public:
  explicit RankMemory(Device device) : captions_(device), rest_(device) {}

  /// Grows the memory where it is too small, and turns to what the last drawing of this shape has left.
  /// \param take called as take(captions, rest) with the two arenas; its result is returned
  /// \param make_room called with the bytes before memory is taken, while the rank has none
  /// \throws Error out_of_memory
  template <class Take, class MakeRoom>
  auto lay_out(const DrawingShape& shape, const Take& take, const MakeRoom& make_room) {
    Sizes needed = measure(take);
    bytes_ = needed.all();
    if (must_move(needed)) {
      release();
      make_room(needed.all());
      captions_ = Arena(captions_.device(), needed.captions);
      rest_ = Arena(rest_.device(), needed.rest);
    }
    turn_to(shape);
    captions_.rewind(0);
    rest_.rewind(0);
    return take(captions_, rest_);
  }

  /// \return bytes of the last layout.
  size_t bytes() const { return bytes_; }
  /// \return what the last sampler of this shape left.
  SamplerLeft& left() { return shapes_.front().left; }
  /// \return the recorded decode of image `index` of the drawing; empty until the caller has recorded one.
  Graph& decode(size_t index) { return shapes_.front().decodes[index]; }
  /// \return the recorded encodings of prompts, of all drawings.
  LruCache<CaptionKey, Graph>& captions() { return recorded_captions_; }
  /// \return whether the last drawing was of this shape, and has left anything in the memory.
  bool has_left() const { return !shapes_.empty() && shapes_.front().left.has_positions; }
  /// \return whether a drawing of this shape was laid out before, and nothing was forgotten since.
  bool knows_shape() const { return knows_shape_; }
  /// Forgets what drawings of this shape have left, and recorded decodes.
  void forget_shape() {
    ShapeLeft& own = shapes_.front();
    own = {std::move(own.shape), {}, {}};
  }
  /// The same of all shapes.
  void forget() { shapes_.clear(); }
  /// Gives the memory back, and forgets what was left and recorded there.
  void release() {
    forget();
    recorded_captions_.clear();
    captions_ = Arena(captions_.device());
    rest_ = Arena(rest_.device());
  }

  static constexpr int kPatience = 32;                     ///< small drawings after which memory shrinks
  static constexpr size_t kSmallBytes = size_t{16} << 20;  ///< memory up to this size is kept
  static constexpr size_t kKeptCaptionRecordings = 16;
  static constexpr size_t kKeptShapes = 4;  ///< e.g. one picture in lanes of 1, 2, 4 and 8 ranks

 private:
  struct Sizes {
    size_t captions = 0, rest = 0;
    size_t all() const { return captions + rest; }
  };

  /// What drawings of a shape have left.
  struct ShapeLeft {
    DrawingShape shape;
    SamplerLeft left;
    std::map<size_t, Graph> decodes;
  };

  void turn_to(const DrawingShape& shape) {
    const auto known = std::ranges::find(shapes_, shape, &ShapeLeft::shape);
    knows_shape_ = known != shapes_.end();
    if (!knows_shape_) {
      shapes_.push_front({shape, {}, {}});
      if (shapes_.size() > kKeptShapes) shapes_.pop_back();
    } else if (known != shapes_.begin()) {
      shapes_.splice(shapes_.begin(), shapes_, known);
      left().has_positions = false;  // another drawing was where they were
    }
  }

  template <class Take>
  Sizes measure(const Take& take) const {
    Arena captions(captions_.device()), rest(rest_.device());
    take(captions, rest);
    return {captions.peak_bytes(), rest.peak_bytes()};
  }

  /// \param needed becomes the sizes to take, if other memory is to be taken
  /// \return whether other memory is to be taken.
  bool must_move(Sizes& needed) {
    const Sizes there{captions_.capacity_bytes(), rest_.capacity_bytes()};
    if (there.captions < needed.captions || there.rest < needed.rest) {
      small_drawings_ = 0;
      return true;
    }
    if (2 * needed.all() > there.all() || there.all() <= kSmallBytes) {
      small_drawings_ = 0;
      return false;
    }
    if (small_drawings_++ == 0) lately_ = {};
    lately_ = {std::max(lately_.captions, needed.captions), std::max(lately_.rest, needed.rest)};
    if (small_drawings_ <= kPatience || 2 * lately_.all() > there.all()) return false;
    needed = lately_;
    small_drawings_ = 0;
    return true;
  }

  Arena captions_, rest_;
  size_t bytes_ = 0;
  Sizes lately_;                 // the most of the last drawings, which were all small
  int small_drawings_ = 0;       // how many these are
  std::list<ShapeLeft> shapes_;  // that of now first
  bool knows_shape_ = false;
  LruCache<CaptionKey, Graph> recorded_captions_{kKeptCaptionRecordings};
};

}  // namespace nostos
