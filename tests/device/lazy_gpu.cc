// Implements the seam to the CUDA runtime on queues of host work. Linked in place of the room's own.
#include "lazy_gpu.h"

#include <cstring>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "base/error.h"
#include "device/cuda/runtime.h"

struct CUevent_st {
  uint64_t recorded = 0;  ///< records that were enqueued
  uint64_t done = 0;      ///< the last of them that has run
};

struct CUstream_st {
  struct Task {
    std::function<void()> run;
    const CUevent_st* event = nullptr;  ///< that must have done the records so far
    uint64_t record = 0;
  };
  std::deque<Task> tasks;
};

namespace nostos {
namespace {

struct Gpu {
  std::vector<CUstream_st*> streams;
  std::mt19937 random;
};

Gpu& gpu() {
  static Gpu one;
  return one;
}

bool can_run(const CUstream_st* stream) {
  if (stream->tasks.empty()) return false;
  const CUstream_st::Task& next = stream->tasks.front();
  return next.event == nullptr || next.event->done >= next.record;
}

/// Runs one piece of work. \return whether there was any
bool run_one() {
  std::vector<CUstream_st*> ready;
  for (CUstream_st* stream : gpu().streams)
    if (can_run(stream)) ready.push_back(stream);
  if (ready.empty()) return false;
  CUstream_st* const stream = ready[gpu().random() % ready.size()];
  const CUstream_st::Task task = std::move(stream->tasks.front());
  stream->tasks.pop_front();
  if (task.run) task.run();
  return true;
}

void run_until(const std::function<bool()>& done) {
  while (!done()) check(run_one(), "streams wait for one another");
}

[[noreturn]] void refuse() { fail(ErrorKind::internal, "the stand-in has no such call"); }

}  // namespace

namespace lazy_gpu {

void choose_order(uint32_t seed) { gpu().random.seed(seed); }

void enqueue(const Stream& stream, std::function<void()> work) {
  stream.handle()->tasks.push_back({.run = std::move(work)});
}

size_t pending(const Stream& stream) { return stream.handle()->tasks.size(); }

}  // namespace lazy_gpu

namespace cuda {

int device_count() { return 1; }
const DeviceProperties& device_properties(int) {
  static const DeviceProperties properties{.name = "stand-in", .compute_capability = 90};
  return properties;
}
void use_device(int) {}
size_t free_bytes(int) { return size_t{1} << 30; }
int64_t allocations() { return 0; }
std::byte* allocate(int, size_t bytes) { return new std::byte[bytes]; }
void release(int, std::byte* memory) noexcept {
  while (run_one()) {
  }
  delete[] memory;
}
std::byte* allocate_pinned(size_t bytes) { return new std::byte[bytes]; }
void release_pinned(std::byte* memory) noexcept { delete[] memory; }

CUstream_st* create_stream(int) { return gpu().streams.emplace_back(new CUstream_st); }
void destroy_stream(int, CUstream_st* stream) noexcept {
  std::erase(gpu().streams, stream);
  delete stream;
}
void synchronize(CUstream_st* stream) {
  run_until([stream] { return stream->tasks.empty(); });
}

CUevent_st* create_event(int, bool) { return new CUevent_st; }
void destroy_event(int, CUevent_st* event) noexcept { delete event; }
void record(CUevent_st* event, CUstream_st* stream) {
  const uint64_t record = ++event->recorded;
  stream->tasks.push_back({.run = [event, record] { event->done = record; }});
}
void wait(CUstream_st* stream, CUevent_st* event) {
  stream->tasks.push_back({.run = {}, .event = event, .record = event->recorded});
}
bool is_done(CUevent_st* event) { return event->done == event->recorded; }
void synchronize(CUevent_st* event) {
  run_until([event] { return is_done(event); });
}
float elapsed_ms(CUevent_st*, CUevent_st*) { refuse(); }

void begin_recording(CUstream_st*) { refuse(); }
CUgraphExec_st* end_recording(CUstream_st*) { refuse(); }
void abandon_recording(CUstream_st*) noexcept {}
void launch(CUgraphExec_st*, CUstream_st*) { refuse(); }
void destroy_graph(CUgraphExec_st*) noexcept {}

void copy_async(std::byte* to, const std::byte* from, size_t bytes, CUstream_st* stream) {
  stream->tasks.push_back({.run = [=] { std::memcpy(to, from, bytes); }});
}

}  // namespace cuda
}  // namespace nostos
