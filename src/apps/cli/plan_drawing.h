// Owns the picture of a shard plan: the token grid coloured by rank, beside a legend.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "io/image.h"
#include "parallel/shard_plan.h"

namespace nostos::cli {

using Colour = std::array<uint8_t, 3>;

/// \return a light colour, unlike those of the ranks before and after.
Colour rank_colour(int64_t rank);

struct PlanDrawing {
  Image image{};
  int64_t left = 0;  ///< pixels, of the grid's first cell
  int64_t top = 0;
  int64_t cell = 0;  ///< pixels along one side of a token
};

/// \param title written above, in capitals; letters, digits and blanks only.
/// \return the grid with one square a token in its rank's colour, numbered where the number fits; below it the pads of
/// one rank, half black; to the right each rank's colour, tokens, pads, idle rows and heads.
PlanDrawing draw_plan(const parallel::ShardPlan& plan, const std::string& title);

}  // namespace nostos::cli
