// Implements what the program says of its build.
#include "apps/version.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nostos_commit.h>  // written by every build

#include <string_view>
#include <vector>

namespace nostos {

std::string version_text() {
  std::vector<std::string_view> features;
  for (const auto& [is_there, name] : {std::pair{NOSTOS_HAS_ONEDNN, "oneDNN"},
                                       {NOSTOS_HAS_OPENMP, "OpenMP"},
                                       {NOSTOS_HAS_MPI, "MPI"},
                                       {NOSTOS_HAS_CUDA, "CUDA"},
                                       {NOSTOS_HAS_NCCL, "NCCL"}})
    if (is_there != 0) features.push_back(name);
  return fmt::format("nostos {}\ncommit {}\nfeatures {}", NOSTOS_VERSION, NOSTOS_COMMIT,
                     features.empty() ? "none" : fmt::format("{}", fmt::join(features, ", ")));
}

}  // namespace nostos
