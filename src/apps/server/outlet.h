// Owns the way of one answer from the thread that makes it to the connection's coroutine.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "apps/server/http.h"

namespace nostos::server {

/// Runs `work` on a handler thread. What it throws has nobody else to catch it: it is logged, and the server goes on.
void post_to(boost::asio::thread_pool& handlers, std::function<void()> work);

/// One answer. A Responder to any thread; what follows its constructor is the coroutine's, on the network thread.
class Outlet : public Responder, public std::enable_shared_from_this<Outlet> {
 public:
  void reply(HttpResponse response) override;
  void start_stream(HttpResponse head) override;
  void write(std::string bytes) override;
  void finish() override;
  void on_disconnect(std::function<void()> gone) override;

  /// \param backlog_bytes unsent bytes of a stream at which its client is too slow
  Outlet(boost::asio::io_context& network, boost::asio::thread_pool& handlers, size_t backlog_bytes)
      : network_(network), handlers_(handlers), wake_(network), backlog_bytes_(backlog_bytes) {}

  struct Next {
    std::optional<HttpResponse> head;
    std::string bytes;
    bool streams = false, ended = false, too_slow = false;
  };
  /// \return what has not been sent yet.
  Next take();
  /// \return whether more waits for a client that is slow to take what it has been sent than it may.
  bool is_too_slow();
  /// Waits until there is something to take, at most for `time`.
  boost::asio::awaitable<void> wait(std::chrono::milliseconds time);
  /// Drops what still comes. \param disconnected the client left, which those who asked are told
  void close(bool disconnected);

 private:
  template <class Change>
  void change(const Change& change);

  boost::asio::io_context& network_;
  boost::asio::thread_pool& handlers_;
  boost::asio::steady_timer wake_;
  const size_t backlog_bytes_;
  std::mutex mutex_;
  std::optional<HttpResponse> head_;
  std::deque<std::string> parts_;
  std::function<void()> on_gone_;
  size_t unsent_bytes_ = 0;
  bool head_taken_ = false, streams_ = false, ended_ = false, gone_ = false;
  bool has_news_ = false;  // since take()
};

}  // namespace nostos::server
