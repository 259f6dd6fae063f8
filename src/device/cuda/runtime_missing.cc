// Stands in for the CUDA runtime in a build without CUDA.
#include "base/error.h"
#include "device/cuda/runtime.h"

namespace nostos::cuda {
namespace {

[[noreturn]] void refuse() {
  fail(ErrorKind::device, "this build has no CUDA backend: configure with -DNOSTOS_CUDA=ON, or run on the CPU");
}

}  // namespace

int device_count() { refuse(); }
const DeviceProperties& device_properties(int) { refuse(); }
void use_device(int) { refuse(); }
size_t free_bytes(int) { refuse(); }
std::byte* allocate(int, size_t) { refuse(); }
void release(int, std::byte*) noexcept {}
std::byte* allocate_pinned(size_t) { refuse(); }
void release_pinned(std::byte*) noexcept {}
int64_t allocations() { refuse(); }
CUstream_st* create_stream(int) { refuse(); }
void destroy_stream(int, CUstream_st*) noexcept {}
void synchronize(CUstream_st*) { refuse(); }
CUevent_st* create_event(int, bool) { refuse(); }
void destroy_event(int, CUevent_st*) noexcept {}
void record(CUevent_st*, CUstream_st*) { refuse(); }
void wait(CUstream_st*, CUevent_st*) { refuse(); }
bool is_done(CUevent_st*) { refuse(); }
void synchronize(CUevent_st*) { refuse(); }
float elapsed_ms(CUevent_st*, CUevent_st*) { refuse(); }
void begin_recording(CUstream_st*) { refuse(); }
CUgraphExec_st* end_recording(CUstream_st*) { refuse(); }
void abandon_recording(CUstream_st*) noexcept {}
void launch(CUgraphExec_st*, CUstream_st*) { refuse(); }
void destroy_graph(CUgraphExec_st*) noexcept {}
void copy_async(std::byte*, const std::byte*, size_t, CUstream_st*) { refuse(); }

}  // namespace nostos::cuda
