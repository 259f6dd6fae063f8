// Owns the seam to the CUDA runtime: the calls that the rest of the room is built on, without a CUDA header. A build
// without CUDA links a stand-in; every call of the stand-in that can fail throws Error device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

struct CUstream_st;  // *CUstream_st is cudaStream_t, *CUevent_st is cudaEvent_t, *CUgraphExec_st is cudaGraphExec_t
struct CUevent_st;
struct CUgraphExec_st;

namespace nostos::cuda {

/// What a program must know of a GPU to choose how to run on it.
struct DeviceProperties {
  std::string name;
  int compute_capability = 0;  ///< 10 * major + minor, e.g. 90
  int multiprocessors = 0;
  size_t total_bytes = 0;
};

/// \return the number of usable GPUs. \throws Error device without a driver, a matching driver or a GPU.
int device_count();

/// \return the properties of GPU `index`, read once a process.
/// \throws Error device if there is no such GPU, or it is older than kOldestComputeCapability
const DeviceProperties& device_properties(int index);

/// The oldest generation with bf16 matrix products: Ampere.
inline constexpr int kOldestComputeCapability = 80;

/// Makes GPU `index` the calling thread's. \throws Error device as device_properties()
void use_device(int index);

/// \return free bytes of GPU `index` now.
size_t free_bytes(int index);

/// \return memory of GPU `index`, aligned to 256 bytes. \throws Error out_of_memory naming the size and what is free
std::byte* allocate(int index, size_t bytes);
/// Waits for the GPU's work, as cudaFree does. Null is allowed.
void release(int index, std::byte* memory) noexcept;

/// \return page-locked host memory, from and to which the GPU copies by itself. \throws Error out_of_memory
std::byte* allocate_pinned(size_t bytes);
void release_pinned(std::byte* memory) noexcept;

/// \return how often this process has taken GPU memory or page-locked memory so far. A warm run takes none.
int64_t allocations();

/// \return a stream of GPU `index` that does not wait for the default stream.
CUstream_st* create_stream(int index);
void destroy_stream(int index, CUstream_st* stream) noexcept;
/// Waits for all work of `stream`. \throws Error device_lost if the GPU was lost or a kernel failed.
void synchronize(CUstream_st* stream);

/// \param timed whether elapsed_ms() will be asked for.
CUevent_st* create_event(int index, bool timed);
void destroy_event(int index, CUevent_st* event) noexcept;
void record(CUevent_st* event, CUstream_st* stream);
/// Work enqueued on `stream` later begins after `event`.
void wait(CUstream_st* stream, CUevent_st* event);
bool is_done(CUevent_st* event);
/// Waits on the host until `event` is done.
void synchronize(CUevent_st* event);
/// \return milliseconds from `begin` to `end`, both timed and done.
float elapsed_ms(CUevent_st* begin, CUevent_st* end);

/// From now on what the calling thread enqueues on `stream` is recorded in place of run.
void begin_recording(CUstream_st* stream);
/// \return what was recorded, ready to be launched. \throws Error internal if something in it cannot be recorded.
CUgraphExec_st* end_recording(CUstream_st* stream);
/// Ends a recording and forgets it.
void abandon_recording(CUstream_st* stream) noexcept;
/// Enqueues what was recorded.
void launch(CUgraphExec_st* graph, CUstream_st* stream);
void destroy_graph(CUgraphExec_st* graph) noexcept;

/// Enqueues a copy between any two of GPU memory and pinned memory.
void copy_async(std::byte* to, const std::byte* from, size_t bytes, CUstream_st* stream);

}  // namespace nostos::cuda
