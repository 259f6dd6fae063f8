// Owns the step from CUDA's status codes to Error. Sources that are compiled with CUDA alone include it, and check
// every call of CUDA with it.
#pragma once

#include <cuda_runtime_api.h>

#include "base/error.h"

namespace nostos::cuda {

/// \return what a status means to a caller: memory, a device or driver that the user can mend, a lost device, or a bug.
ErrorKind error_kind(cudaError_t status);

/// \return whether a status means that the GPU is lost to this process. Every later call fails after such a status.
bool is_device_lost(cudaError_t status);

/// Throws what check_cuda() throws if the GPU is lost to this process. Call it when a library has failed on the GPU,
/// because a library's own status does not tell.
/// \param what the attempted step
void check_not_lost(const char* what, const char* file = __builtin_FILE(), int line = __builtin_LINE());

/// \throws Error of error_kind(status) saying what failed, why and what to do, unless the status is cudaSuccess.
/// \param what the attempted step, e.g. "cannot copy to the GPU".
void check_cuda(cudaError_t status, const char* what, const char* file = __builtin_FILE(), int line = __builtin_LINE());

/// Checks that the kernel just launched could start. \param kernel its name.
inline void check_launch(const char* kernel, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  check_cuda(cudaGetLastError(), kernel, file, line);
}

}  // namespace nostos::cuda
