// Owns how a command runs as one process or as one of those that mpirun or srun started.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "apps/cli/flags.h"
#include "parallel/communicator.h"

namespace nostos::cli {

/// The processes of a run as its commands see them.
class Processes {
 public:
  /// \param communicator of the processes that a launcher started, or null for one that was started by hand.
  explicit Processes(Communicator* communicator) : communicator_(communicator) {}

  Communicator* communicator() const { return communicator_; }
  /// \return whether this process is the one that reads the user's files, shows progress and writes.
  bool is_root() const { return communicator_ == nullptr || communicator_->rank() == 0; }

  /// \return what the root process's `make` gives, on every process, so that files named on the command line are needed
  /// there alone.
  std::string from_root(const std::function<std::string()>& make) const;

  /// This process among those of its host.
  struct Place {
    int64_t rank = 0;
    int64_t world = 1;
  };
  /// All processes call it.
  Place place_on_host() const;

  /// \return whether `own` is true on every process. All call it.
  bool all_have(bool own) const;

  /// \return the CPU threads of this process: `asked`, or where this is 0 its share of the CPUs that it may keep busy
  /// (share_of_cpus()); the log says so if a quota is what limits them. All processes call it.
  int threads(int64_t asked) const;

  /// All processes call it with the name of the device that theirs draws on. \throws Error device where it is not the
  /// root's: the picture would depend on which process computes what.
  void require_same_device(const std::string& own) const;

  /// All processes call it with the precision that theirs computes in, "f32" or "bf16". \throws Error device where it
  /// is not the root's: the picture would depend on which process computes what.
  void require_same_precision(const std::string& own) const;

 private:
  Communicator* communicator_;
};

/// Applies the common flags to `command`, then runs `body` once: as one rank of several where a launcher started this
/// process, otherwise alone. A failing rank ends the others, each with an error that names it (see run_mpi_rank()).
/// Processes other than the root log nothing below `error`, unless `debug` is asked for.
/// \param engine has what the command line and the config file say when `body` runs
/// \throws what `body` and apply_common_flags() throw, in a process started by hand
void run_processes(CLI::App& command, const CommonFlags& common, const EngineFlags& engine,
                   const std::function<void(const Processes&)>& body);

}  // namespace nostos::cli
