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
/// sleep between looks at the network.
///
/// A failure of any rank ends the run: this rank tells the others why, calls `report` with its own error (peer_failed
/// where another rank is the cause) for it to print, waits up to 3 seconds until all have printed theirs, and ends
/// every process through MPI_Abort with the exit code that the cause's `report` returned, so that the launcher passes
/// on the same one whichever rank ends first. Then the function does not return.
/// When the process of a peer ends, `report` is called within a millisecond, from another thread if the rank is at
/// work. It is called once at most. An Error of kind cancelled turns into peer_failed if a peer has failed: launchers
/// send SIGTERM to those that remain.
/// \param options outlive the call; a timeout_s that `body` changes is that of the exchanges which start later.
/// \throws Error device in a build without MPI, or if MPI sees another number of ranks than the launcher started.
void run_mpi_rank(const std::function<void(Communicator&)>& body, const std::function<int(std::exception_ptr)>& report,
                  const MpiOptions& options = {});

}  // namespace nostos
