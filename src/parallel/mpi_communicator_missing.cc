// Stands in for MPI in builds without it.
#include "base/error.h"
#include "parallel/mpi_communicator.h"

namespace nostos {

bool built_with_mpi() { return false; }

void run_mpi_rank(const std::function<void(Communicator&)>&, const std::function<int(std::exception_ptr)>&,
                  const MpiOptions&) {
  fail(ErrorKind::device,
       "this nostos was built without MPI and cannot be one of several processes; build it with -DNOSTOS_MPI=ON "
       "(packages libopenmpi-dev and openmpi-bin), or start it alone and let its ranks be threads");
}

}  // namespace nostos
