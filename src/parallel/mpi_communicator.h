// Owns ranks as processes that mpirun or srun started, on one host or several.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>

#include "parallel/communicator.h"

namespace nostos {

struct MpiOptions : CommunicatorOptions {
  /// Longer messages travel in pieces: MPI counts in int, and a time-out is renewed with every piece.
  size_t piece_bytes = size_t{256} << 20;
};

/// \return whether this build has MPI.
bool built_with_mpi();

/// Runs `body` as this process's rank of the run that a launcher started, then ends MPI. Once a process. Waiting ranks
/// sleep between looks at the network, and see within milliseconds when a peer on their host dies.
///
/// A failure of any rank ends the run: this rank tells the others why, calls `report` with its own error (peer_failed
/// where another rank is the cause) for it to print, waits up to 2 seconds until all have printed theirs, and ends
/// every process through MPI_Abort with the exit code that `report` returned. Then the function does not return.
/// An Error of kind cancelled turns into peer_failed if a peer is gone: launchers send SIGTERM to those that remain.
/// \throws Error device in a build without MPI, or if MPI sees another number of ranks than the launcher started.
void run_mpi_rank(const std::function<void(Communicator&)>& body, const std::function<int(std::exception_ptr)>& report,
                  const MpiOptions& options = {});

}  // namespace nostos
