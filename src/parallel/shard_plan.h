// Owns which rank holds which tokens and heads of a picture: pure functions of the token grid and the number of ranks.
// The rows of a decoder's image are dealt by nn/row_shards.h.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace nostos::parallel {

/// How the tokens of a picture are dealt to ranks.
enum class PlanKind {
  token,  ///< contiguous ranges of the padded sequence, sizes differing by at most one
  axis,   ///< rectangles along the picture's native height or width
};

enum class Axis { height, width };

std::string_view name(PlanKind kind);
std::string_view name(Axis axis);

/// Integers from `begin` on.
struct Range {
  int64_t begin = 0;
  int64_t count = 0;

  int64_t end() const { return begin + count; }
  friend bool operator==(const Range&, const Range&) = default;
};

/// Tokens of a picture in row-major order.
struct Grid {
  int64_t height = 0;
  int64_t width = 0;

  int64_t tokens() const { return height * width; }
  friend bool operator==(const Grid&, const Grid&) = default;
};

/// A part of a grid, in tokens or in latent elements.
struct Rectangle {
  Range rows{};
  Range columns{};

  int64_t area() const { return rows.count * columns.count; }
  friend bool operator==(const Rectangle&, const Rectangle&) = default;
};

/// What cutting along one axis would give.
struct AxisCut {
  Axis axis = Axis::height;
  std::vector<int64_t> sizes{};  ///< tokens along the axis, one a rank; ranks beyond the tokens have 0
  int64_t target = 0;            ///< aligned local length: max(sizes) * other side, rounded up to the pad multiple
  int64_t cost = 0;              ///< padding tokens: target * ranks - grid tokens
};

/// One rank's part. A rank that holds nothing has zero counts and takes part in every collective with zero rows.
struct Share {
  /// Token plan: of the padded native sequence. Axis plan: of the exchanged one, which is the ranks' rows in rank
  /// order.
  Range rows{};
  /// Axis plan: the tokens held. Token plan: the fewest whole grid rows that hold them.
  Rectangle bounds{};
  int64_t image_tokens = 0;  ///< real tokens, first among the rank's rows
  Range pads{};  ///< single-rank pads: computed and attended as on one rank; counted from the first pad of the picture
  int64_t idle = 0;  ///< rows that only fill up the axis plan's target, last; never attended
  Range heads{};

  /// Rows that are computed.
  int64_t active() const { return image_tokens + pads.count; }
};

struct PlanRequest {
  Grid grid{};
  int64_t ranks = 1;
  PlanKind kind = PlanKind::token;
  int64_t heads = 1;
  int64_t patch = 2;  ///< latent elements along one side of a token
  int64_t pad_multiple =
      1;  ///< the sequence, and each target of the axis plan, is padded to a multiple of this; 1: not

  /// \return the length of the image's sequence on one rank: the grid's tokens and pads.
  int64_t padded_tokens() const;
};

struct ShardPlan {
  PlanRequest request{};
  std::array<AxisCut, 2> cuts{};  ///< along height and along width
  Axis axis = Axis::height;       ///< of the axis plan
  std::string_view reason{};      ///< why `axis` was chosen
  std::vector<Share> shares{};    ///< one a rank, of request.kind

  const AxisCut& cut() const { return cuts[static_cast<size_t>(axis)]; }
  int64_t padded_tokens() const { return request.padded_tokens(); }
};

/// \return `count` things dealt to `parts`, contiguous and in order, the first count mod parts getting one more.
/// \throws Error internal unless count >= 0 and parts >= 1
std::vector<Range> split(int64_t count, int64_t parts);

/// Token plan: the padded sequence of one rank, split(). Axis plan: of both axes the one whose cut costs the fewest
/// padding tokens, on a tie the longer one, then height; its tokens dealt by split(), each rank's rectangle padded to
/// the cut's target. The first pad slots in rank order stand for the pads that one rank has, the others are idle. Heads
/// are dealt whole by split() in both.
/// \throws Error invalid_input unless grid, ranks, heads, patch and pad_multiple are all at least 1
ShardPlan make_plan(const PlanRequest& request);

/// \return the rank's computed rows as indices into the padded native sequence of one rank, in the rank's own order:
/// the fewest runs, none empty. Index n < grid tokens is the token in row n / width, column n % width; pads follow.
std::vector<Range> native_runs(const ShardPlan& plan, int64_t rank);

/// \return share.bounds in latent elements.
Rectangle latent_bounds(const ShardPlan& plan, int64_t rank);

/// Bytes that a rank exchanges with the others in one attention layer.
struct ExchangeBytes {
  int64_t qkv_sent = 0;
  int64_t qkv_received = 0;
  int64_t output_sent = 0;
  int64_t output_received = 0;

  int64_t sent() const { return qkv_sent + output_sent; }
  int64_t received() const { return qkv_received + output_received; }
};

/// Ulysses: q, k and v of a rank's rows go to the ranks that own the heads, the attention output comes back. With T_r
/// computed rows (share.active(), and its part of what stands beside the image, which split() deals) and H_r heads on
/// rank r, T and H in all, head width D and E bytes an element:
///
///     qkv_sent        = 3 T_r (H - H_r) D E        qkv_received    = 3 (T - T_r) H_r D E
///     output_sent     = (T - T_r) H_r D E          output_received = T_r (H - H_r) D E
///
/// What a rank keeps for itself is not counted, and idle rows do not travel.
/// \param element_bytes 4 for f32, 2 for bf16 \param beside rows of each run beside the image's in this layer: of
/// the text, of references
ExchangeBytes exchange_bytes(const ShardPlan& plan, int64_t rank, int64_t head_dim, int64_t element_bytes,
                             const std::vector<int64_t>& beside = {});

}  // namespace nostos::parallel
