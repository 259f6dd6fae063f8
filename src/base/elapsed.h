// Owns how long something took on the host's clock.
#pragma once

#include <chrono>

namespace nostos {

/// \return milliseconds from `start` until now.
inline double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace nostos
