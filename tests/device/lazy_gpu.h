// Owns a stand-in for a GPU that runs nothing before the host waits for it, and then the streams' work in any order
// that streams and events allow: work that is not ordered shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "device/stream.h"

namespace nostos::lazy_gpu {

/// Decides the order of work from now on.
void choose_order(uint32_t seed);

/// Enqueues `work` on a stream of the stand-in, as a kernel would be.
void enqueue(const Stream& stream, std::function<void()> work);

/// \return what is enqueued on a stream and has not run: kernels, copies, waits and records.
size_t pending(const Stream& stream);

}  // namespace nostos::lazy_gpu
