// Implements the look at the launcher's environment variables.
#include "parallel/launcher.h"

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace nostos {
namespace {

int parse_world(const char* name, const char* text) {
  int world = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, world);
  require(error == std::errc() && stop == end && world >= 1, ErrorKind::invalid_input,
          "the environment variable {} is \"{}\", expected the number of ranks", name, text);
  return world;
}

}  // namespace

std::optional<Launcher> find_launcher(const std::function<const char*(const char*)>& variable) {
  if (const char* world = variable("OMPI_COMM_WORLD_SIZE"))
    return Launcher{"mpirun", parse_world("OMPI_COMM_WORLD_SIZE", world)};
  // Slurm sets SLURM_NTASKS in a batch script too; only srun's tasks know their step's number of tasks and a PMI rank.
  const char* tasks = variable("SLURM_STEP_NUM_TASKS");
  if (tasks != nullptr && variable("SLURM_STEP_ID") != nullptr) {
    const Launcher srun{"srun", parse_world("SLURM_STEP_NUM_TASKS", tasks)};
    const bool speaks = variable("PMIX_RANK") != nullptr || variable("PMI_RANK") != nullptr;
    require(speaks || srun.world == 1, ErrorKind::invalid_input,
            "srun started {} ranks that cannot find each other: start them with srun --mpi=pmix", srun.world);
    return speaks ? std::optional(srun) : std::nullopt;
  }
  if (variable("PMIX_RANK") != nullptr) return Launcher{"a PMIx launcher", 0};
  return std::nullopt;
}

}  // namespace nostos
