// Owns division and rounding of counts: for padded lengths, and for tiles that cover them.
#pragma once

#include <cstdint>

namespace nostos {

/// \return the parts of `size` that `count` fills, the last one maybe in part. \param count at least 0. \param size at
/// least 1
constexpr int64_t divide_up(int64_t count, int64_t size) { return (count + size - 1) / size; }

/// \return the smallest multiple that holds `count`. \param count at least 0. \param multiple at least 1
constexpr int64_t round_up(int64_t count, int64_t multiple) { return divide_up(count, multiple) * multiple; }

}  // namespace nostos
