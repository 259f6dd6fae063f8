// Owns a thread on which what takes long is read, for one request after another: pictures that clients send, LoRAs.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>

namespace nostos::server {

/// Reading a picture takes seconds, and a hundred times the memory of its file; a LoRA may have gigabytes. So that is
/// done for one request at a time, and never on a thread that answers others. It goes before the HttpServer whose
/// requests it answers.
class ReadingLane {
 public:
  /// \param most_waiting requests, with the one that is read
  explicit ReadingLane(size_t most_waiting) : most_waiting_(most_waiting) {}
  ~ReadingLane();

  /// Runs `work` after what waits already. What it throws is logged. Any thread.
  /// \return whether there was room for it to wait.
  bool post(std::function<void()> work);

 private:
  const size_t most_waiting_;
  std::atomic<size_t> waiting_{0};
  boost::asio::thread_pool thread_{1};
};

}  // namespace nostos::server
