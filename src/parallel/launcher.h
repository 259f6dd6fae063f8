// Owns the question whether mpirun, srun or another launcher started this process as one rank of several.
#pragma once

#include <cstdlib>
#include <functional>
#include <optional>
#include <string>

namespace nostos {

/// What a launcher says in the environment of each rank that it starts.
struct Launcher {
  std::string name;  ///< as users know it: "mpirun", "srun", "a PMIx launcher"
  int world = 0;     ///< ranks that it started; 0 where it does not say

  friend bool operator==(const Launcher&, const Launcher&) = default;
};

/// \param variable looks up an environment variable and returns null if it is unset.
/// \return the launcher of this process, if any: Open MPI's mpirun, srun (a batch script is no rank), or any PMIx one.
/// \throws Error invalid_input if the number of ranks is none, or srun gave several nothing to find each other by.
std::optional<Launcher> find_launcher(const std::function<const char*(const char*)>& variable = ::getenv);

}  // namespace nostos
