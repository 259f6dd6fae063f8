// Owns the memory that a rank keeps from one drawing to the next: when the memory grows and shrinks, and what a drawing
// has left in it. draw() lays every drawing out in it.
#pragma once

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "base/lru_cache.h"
#include "device/arena.h"
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
  std::vector<int64_t> caption_tokens{};  ///< rows of each prompt embedding
  std::vector<PicturePlan> pictures{};
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
/// smaller than the memory.
class RankMemory {
 public:
  explicit RankMemory(Device device) : captions_(device), rest_(device) {}

  /// Grows the memory where it is too small, and forgets what a drawing of another shape has left in the second arena.
  /// \param take called as take(captions, rest) with the two arenas; its result is returned
  /// \param make_room called with the bytes before memory is taken, while the rank has none
  /// \throws Error out_of_memory
  template <class Take, class MakeRoom>
  auto lay_out(const DrawingShape& shape, const Take& take, const MakeRoom& make_room) {
    Sizes needed = measure(take);
    bytes_ = needed.all();
    if (!(shape == shape_)) forget();
    shape_ = shape;
    if (must_move(needed)) {
      release();
      make_room(needed.all());
      captions_ = Arena(captions_.device(), needed.captions);
      rest_ = Arena(rest_.device(), needed.rest);
    }
    captions_.rewind(0);
    rest_.rewind(0);
    return take(captions_, rest_);
  }

  /// \return bytes of the last layout.
  size_t bytes() const { return bytes_; }
  /// \return what the last sampler left.
  SamplerLeft& left() { return left_; }
  /// \return the recorded decode of image `index` of the drawing; empty until the caller has recorded one.
  Graph& decode(size_t index) { return decodes_[index]; }
  /// \return the recorded encodings of prompts, of all drawings.
  LruCache<CaptionKey, Graph>& captions() { return recorded_captions_; }
  /// \return whether a drawing has left anything in the memory.
  bool has_left() const { return left_.has_positions; }
  /// Forgets what the last sampler left, and recorded decodes.
  void forget() {
    left_ = {};
    decodes_.clear();
  }
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

 private:
  struct Sizes {
    size_t captions = 0, rest = 0;
    size_t all() const { return captions + rest; }
  };

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
  Sizes lately_;            // the most of the last drawings, which were all small
  int small_drawings_ = 0;  // how many these are
  DrawingShape shape_;
  SamplerLeft left_;
  std::map<size_t, Graph> decodes_;
  LruCache<CaptionKey, Graph> recorded_captions_{kKeptCaptionRecordings};
};

}  // namespace nostos
