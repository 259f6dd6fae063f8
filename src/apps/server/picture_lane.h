// Owns the thread on which pictures that clients send are read, one request after another.
#pragma once

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>

namespace nostos::server {

/// Reading a picture takes seconds, and a hundred times the memory of its file. So that is done for one request at a
/// time, and never on a thread that answers others. It goes before the HttpServer whose requests it answers.
class PictureLane {
 public:
  static constexpr size_t kMostWaiting = 16;  ///< requests, with the one that is read

  PictureLane() = default;
  ~PictureLane();

  /// Runs `work` after what waits already. What it throws is logged. Any thread.
  /// \return whether there was room for it to wait.
  bool post(std::function<void()> work);

 private:
  std::atomic<size_t> waiting_{0};
  boost::asio::thread_pool thread_{1};
};

}  // namespace nostos::server
