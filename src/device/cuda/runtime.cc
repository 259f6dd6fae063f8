// Implements the seam on the CUDA runtime.
#include "device/cuda/runtime.h"

#include <atomic>
#include <map>
#include <mutex>
#include <string_view>

#include "device/cuda/check.h"

namespace nostos::cuda {
namespace {

DeviceProperties read_properties(int index) {
  const int count = device_count();
  require(index >= 0 && index < count, ErrorKind::device, "there is no GPU {}: this machine has {}, numbered from 0",
          index, count);
  cudaDeviceProp found;
  check_cuda(cudaGetDeviceProperties(&found, index), "cannot read the GPU's properties");
  DeviceProperties made{found.name, 10 * found.major + found.minor, found.multiProcessorCount, found.totalGlobalMem};
  require(made.compute_capability >= kOldestComputeCapability, ErrorKind::device,
          "GPU {} ({}) has compute capability {}.{}; the CUDA backend needs {}.{} (Ampere) or newer", index, made.name,
          found.major, found.minor, kOldestComputeCapability / 10, kOldestComputeCapability % 10);
  return made;
}

std::atomic<int64_t>& allocation_count() {
  static std::atomic<int64_t> count = 0;
  return count;
}

/// Makes GPU `index` current for a scope that must not change what the thread's caller has set.
class DeviceScope {
 public:
  explicit DeviceScope(int index) {
    cudaGetDevice(&before_);
    if (before_ != index) cudaSetDevice(index);
  }
  ~DeviceScope() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

}  // namespace

ErrorKind error_kind(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return ErrorKind::out_of_memory;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorStubLibrary:
      return ErrorKind::device;
    default:
      return is_device_lost(status) ? ErrorKind::device_lost : ErrorKind::internal;
  }
}

bool is_device_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorMpsClientTerminated:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

void check_cuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a status that does not break the device is not to be met again by a later check
  std::string_view advice;
  switch (status) {
    case cudaErrorNoDevice:
      advice = ": no GPU is visible to this process (see nvidia-smi and CUDA_VISIBLE_DEVICES)";
      break;
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      advice = ": the NVIDIA driver is missing or older than this build's CUDA needs";
      break;
    case cudaErrorStubLibrary:
      advice = ": the CUDA driver found is the toolkit's stub, not the NVIDIA driver's own libcuda.so";
      break;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      advice =
          ": this build has no kernels for this GPU; configure with NOSTOS_CUDA_ARCHITECTURES naming its generation";
      break;
    case cudaErrorDevicesUnavailable:
      advice = ": the GPU is in use by another process";
      break;
    default:
      if (is_device_lost(status))
        advice = ": the device is lost to this process, which must be started again (nvidia-smi and dmesg may say why)";
      break;
  }
  fail(error_kind(status), "{}: {} ({}){} ({}:{})", what, cudaGetErrorString(status), cudaGetErrorName(status), advice,
       file, line);
}

void check_not_lost(const char* what, const char* file, int line) {
  const cudaError_t status = cudaStreamQuery(nullptr);
  if (is_device_lost(status)) check_cuda(status, what, file, line);
}

int device_count() {
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count), "cannot use a GPU");
  return count;
}

const DeviceProperties& device_properties(int index) {
  static std::mutex mutex;
  static std::map<int, DeviceProperties> known;
  const std::scoped_lock lock(mutex);
  const auto found = known.find(index);
  return found != known.end() ? found->second : known.emplace(index, read_properties(index)).first->second;
}

void use_device(int index) { check_cuda(cudaSetDevice(index), "cannot use the GPU"); }

size_t free_bytes(int index) {
  const DeviceScope scope(index);
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cannot ask for the GPU's free memory");
  return free;
}

std::byte* allocate(int index, size_t bytes) {
  device_properties(index);
  const DeviceScope scope(index);
  ++allocation_count();
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::out_of_memory, "out of memory: {} bytes wanted on cuda:{}, {} are free", bytes, index,
         free_bytes(index));
  }
  check_cuda(status, "cannot allocate GPU memory");
  return static_cast<std::byte*>(memory);
}

void release(int index, std::byte* memory) noexcept {
  const DeviceScope scope(index);
  cudaFree(memory);
}

std::byte* allocate_pinned(size_t bytes) {
  ++allocation_count();
  void* memory = nullptr;
  const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::out_of_memory, "out of memory: {} bytes of page-locked host memory wanted", bytes);
  }
  check_cuda(status, "cannot allocate page-locked host memory");
  return static_cast<std::byte*>(memory);
}

void release_pinned(std::byte* memory) noexcept { cudaFreeHost(memory); }

int64_t allocations() { return allocation_count(); }

CUstream_st* create_stream(int index) {
  device_properties(index);
  const DeviceScope scope(index);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cannot make a stream");
  return stream;
}

void destroy_stream(int index, CUstream_st* stream) noexcept {
  const DeviceScope scope(index);
  cudaStreamDestroy(stream);
}

void synchronize(CUstream_st* stream) { check_cuda(cudaStreamSynchronize(stream), "the GPU failed at its work"); }

CUevent_st* create_event(int index, bool timed) {
  device_properties(index);
  const DeviceScope scope(index);
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, timed ? cudaEventDefault : cudaEventDisableTiming),
             "cannot make an event");
  return event;
}

void destroy_event(int index, CUevent_st* event) noexcept {
  const DeviceScope scope(index);
  cudaEventDestroy(event);
}

void record(CUevent_st* event, CUstream_st* stream) {
  check_cuda(cudaEventRecord(event, stream), "cannot record an event");
}

void wait(CUstream_st* stream, CUevent_st* event) {
  check_cuda(cudaStreamWaitEvent(stream, event), "cannot wait for an event");
}

bool is_done(CUevent_st* event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check_cuda(status, "the GPU failed at its work");
  return true;
}

void synchronize(CUevent_st* event) { check_cuda(cudaEventSynchronize(event), "the GPU failed at its work"); }

float elapsed_ms(CUevent_st* begin, CUevent_st* end) {
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, begin, end), "cannot read the time between events");
  return ms;
}

void begin_recording(CUstream_st* stream) {
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cannot begin to record a graph");
}

CUgraphExec_st* end_recording(CUstream_st* stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "cannot record a graph");
  cudaGraphExec_t made = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&made, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "cannot make a recorded graph ready");
  // The first launch would do it, maybe waiting for the GPU.
  if (const cudaError_t uploaded = cudaGraphUpload(made, stream); uploaded != cudaSuccess) {
    cudaGraphExecDestroy(made);
    check_cuda(uploaded, "cannot bring a recorded graph to the GPU");
  }
  return made;
}

void abandon_recording(CUstream_st* stream) noexcept {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();  // what broke the recording has been thrown
}

void launch(CUgraphExec_st* graph, CUstream_st* stream) {
  check_cuda(cudaGraphLaunch(graph, stream), "cannot launch a recorded graph");
}

void destroy_graph(CUgraphExec_st* graph) noexcept { cudaGraphExecDestroy(graph); }

void copy_async(std::byte* to, const std::byte* from, size_t bytes, CUstream_st* stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cannot copy to or from the GPU");
}

}  // namespace nostos::cuda
