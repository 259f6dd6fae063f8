// Owns where tests of whole drawings draw that run twice: on the CPU, and in tests/cuda on a GPU.
#pragma once

#include <cstdlib>
#include <filesystem>

#include "device/device.h"

namespace nostos {

inline Device drawing_device() {
#ifdef NOSTOS_DRAWS_ON_GPU
  return {DeviceKind::cuda, 0};
#else
  return {};
#endif
}

/// \return the root of the repository, also for a program that was carried to another machine.
inline std::filesystem::path repository() {
  const char* given = std::getenv("NOSTOS_SOURCE_DIR");
  return given != nullptr ? given : NOSTOS_SOURCE_DIR;
}

}  // namespace nostos
