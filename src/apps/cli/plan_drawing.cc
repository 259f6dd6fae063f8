// Draws shard plans with squares and a font of 3 x 5 dots.
#include "apps/cli/plan_drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.h"

namespace nostos::cli {
namespace {

using parallel::Grid;
using parallel::Range;
using parallel::ShardPlan;
using parallel::Share;

constexpr Colour kBlack{0, 0, 0};
constexpr int64_t kMargin = 16;
constexpr int64_t kGridSide = 1024;  ///< pixels that the longer side of the grid should come close to
constexpr int64_t kMaxCell = 64;
constexpr int64_t kPad = 12;               ///< pixels along one side of a pad's square
constexpr int64_t kSmall = 3, kLarge = 4;  ///< pixels a dot
constexpr int64_t kLine = 8 * kSmall;
constexpr int64_t kColumn = 7 * 4 * kSmall;  ///< a legend column: room for seven glyphs

/// Five rows of three dots each, an octal digit a row, from the top; first 0 to 9, then A to Z.
constexpr std::array<int, 36> kGlyphs{075557, 026227, 071747, 071717, 055711, 074717, 074757, 071111, 075757,
                                      075717, 025755, 065656, 034443, 065556, 074647, 074644, 034553, 055755,
                                      072227, 011152, 055655, 044447, 057755, 065555, 025552, 065644, 025563,
                                      065655, 034216, 072222, 055557, 055552, 055775, 055255, 055222, 071247};

int glyph(char c) {
  if (c >= '0' && c <= '9') return kGlyphs[static_cast<size_t>(c - '0')];
  if (c >= 'a' && c <= 'z') return kGlyphs[static_cast<size_t>(c - 'a' + 10)];
  if (c >= 'A' && c <= 'Z') return kGlyphs[static_cast<size_t>(c - 'A' + 10)];
  return 0;
}

int64_t text_width(std::string_view text, int64_t dot) { return (4 * static_cast<int64_t>(text.size()) - 1) * dot; }

void fill(Image& image, int64_t left, int64_t top, int64_t width, int64_t height, const Colour& colour) {
  for (int64_t y = top; y < top + height; ++y) {
    for (int64_t x = left; x < left + width; ++x)
      std::ranges::copy(colour, image.rgb.begin() + 3 * (y * image.width + x));
  }
}

void write(Image& image, int64_t left, int64_t top, std::string_view text, int64_t dot) {
  for (const char c : text) {
    for (int64_t bit = 0; bit < 15; ++bit) {
      if ((glyph(c) >> (14 - bit) & 1) != 0) fill(image, left + bit % 3 * dot, top + bit / 3 * dot, dot, dot, kBlack);
    }
    left += 4 * dot;
  }
}

/// \return the rank of every token and pad in native order.
std::vector<int64_t> owners(const ShardPlan& plan) {
  std::vector<int64_t> owner(static_cast<size_t>(plan.padded_tokens()));
  for (int64_t rank = 0; rank < plan.request.ranks; ++rank) {
    for (const Range& run : native_runs(plan, rank)) std::fill_n(owner.begin() + run.begin, run.count, rank);
  }
  return owner;
}

void draw_grid(PlanDrawing& drawing, const Grid& grid, const std::vector<int64_t>& owner) {
  const auto& [image, left, top, cell] = drawing;
  const auto owner_at = [&](int64_t row, int64_t column) {
    return owner[static_cast<size_t>(row * grid.width + column)];
  };
  const int64_t line = cell >= 8 ? 2 : cell >= 4 ? 1 : 0;
  for (int64_t row = 0; row < grid.height; ++row) {
    for (int64_t column = 0; column < grid.width; ++column) {
      const int64_t rank = owner_at(row, column);
      const int64_t x = left + column * cell, y = top + row * cell;
      const Colour colour = rank_colour(rank);
      fill(drawing.image, x, y, cell, cell, colour);
      // Faint lines between tokens, black ones between ranks.
      Colour faint = colour;
      for (uint8_t& part : faint) part = static_cast<uint8_t>(part - part / 8);
      const auto edge = [&](bool inside, bool other_rank, int64_t dx, int64_t dy, int64_t width, int64_t height) {
        if (inside) fill(drawing.image, x + dx, y + dy, width, height, other_rank ? kBlack : faint);
      };
      const bool right = column + 1 < grid.width, below = row + 1 < grid.height;
      edge(right, right && owner_at(row, column + 1) != rank, cell - line, 0, line, cell);
      edge(below, below && owner_at(row + 1, column) != rank, 0, cell - line, cell, line);
    }
  }
}

/// Numbers each rank in the middle column of its tokens, where there is room.
void number_ranks(PlanDrawing& drawing, const ShardPlan& plan, const std::vector<int64_t>& owner) {
  const int64_t grid_width = plan.request.grid.width, cell = drawing.cell;
  for (int64_t rank = 0; rank < plan.request.ranks; ++rank) {
    const auto& [rows, columns] = plan.shares[static_cast<size_t>(rank)].bounds;
    const int64_t middle = columns.begin + columns.count / 2;
    int64_t first = rows.begin, last = rows.end();
    const auto owned = [&](int64_t row) { return owner[static_cast<size_t>(row * grid_width + middle)] == rank; };
    while (first < last && !owned(first)) ++first;
    while (first < last && !owned(last - 1)) --last;
    const std::string number = fmt::format("{}", rank);
    const int64_t width = text_width(number, kLarge), height = 5 * kLarge;
    const int64_t room_across = columns.count * cell, room_down = (last - first) * cell;
    if (room_across < width + 2 * kLarge || room_down < height + 2 * kLarge) continue;
    write(drawing.image, drawing.left + columns.begin * cell + (room_across - width) / 2,
          drawing.top + first * cell + (room_down - height) / 2, number, kLarge);
  }
}

/// Pads as squares in one line, in the rank's colour with a black lower half.
void draw_pads(PlanDrawing& drawing, const ShardPlan& plan, const std::vector<int64_t>& owner) {
  const Grid& grid = plan.request.grid;
  const int64_t top = drawing.top + grid.height * drawing.cell + kMargin;
  for (int64_t pad = 0; pad < plan.padded_tokens() - grid.tokens(); ++pad) {
    const int64_t x = drawing.left + pad * kPad;
    fill(drawing.image, x, top, kPad, kPad, kBlack);
    fill(drawing.image, x, top, kPad, kPad / 2, rank_colour(owner[static_cast<size_t>(grid.tokens() + pad)]));
  }
}

void draw_legend(Image& image, int64_t left, int64_t top, const ShardPlan& plan) {
  const auto line = [&](int64_t y, const std::array<std::string, 5>& entries) {
    for (size_t i = 0; i < entries.size(); ++i)
      write(image, left + kLine + static_cast<int64_t>(i) * kColumn, y, entries[i], kSmall);
  };
  line(top, {"rank", "tokens", "pads", "idle", "heads"});
  for (size_t rank = 0; rank < plan.shares.size(); ++rank) {
    const Share& share = plan.shares[rank];
    top += kLine;
    fill(image, left, top, 5 * kSmall, 5 * kSmall, rank_colour(static_cast<int64_t>(rank)));
    const auto text = [](auto value) { return fmt::format("{}", value); };
    line(top,
         {text(rank), text(share.image_tokens), text(share.pads.count), text(share.idle), text(share.heads.count)});
  }
}

}  // namespace

Colour rank_colour(int64_t rank) {
  // Steps of the golden ratio keep neighbours and near neighbours apart on the circle of hues.
  const double hue = 6 * std::fmod(static_cast<double>(rank) * 0.6180339887498949 + 0.55, 1.0);
  const double low = rank % 2 == 0 ? 0.45 : 0.6;
  Colour colour{};
  for (int part = 0; part < 3; ++part) {
    const double k = std::fmod(5 - 2 * part + hue, 6.0);
    const double ramp = std::clamp(std::min(k, 4 - k), 0.0, 1.0);
    colour[static_cast<size_t>(part)] = static_cast<uint8_t>(std::lround(255 * (1 - (1 - low) * ramp)));
  }
  return colour;
}

PlanDrawing draw_plan(const ShardPlan& plan, const std::string& title) {
  const Grid& grid = plan.request.grid;
  PlanDrawing drawing{.left = kMargin, .top = kMargin + kLine + kMargin / 2};
  drawing.cell = std::clamp(kGridSide / std::max(grid.height, grid.width), int64_t{1}, kMaxCell);
  const int64_t pads = plan.padded_tokens() - grid.tokens();
  const int64_t legend_left = drawing.left + std::max(grid.width * drawing.cell, pads * kPad) + kMargin;
  const int64_t legend_height = kLine * (plan.request.ranks + 1);
  const int64_t grid_height = grid.height * drawing.cell + (pads > 0 ? kMargin + kPad : 0);

  Image& image = drawing.image;
  image.height = drawing.top + std::max(grid_height, legend_height) + kMargin;
  image.width = std::max(legend_left + kLine + 5 * kColumn, kMargin + text_width(title, kSmall)) + kMargin;
  image.rgb.assign(static_cast<size_t>(3 * image.height * image.width), 255);
  const std::vector<int64_t> owner = owners(plan);
  write(image, kMargin, kMargin, title, kSmall);
  draw_grid(drawing, grid, owner);
  number_ranks(drawing, plan, owner);
  draw_pads(drawing, plan, owner);
  draw_legend(image, legend_left, drawing.top, plan);
  return drawing;
}

}  // namespace nostos::cli
