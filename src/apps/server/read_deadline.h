// Owns the end of patience with a client whose request does not come.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <chrono>
#include <memory>

namespace nostos::server {

/// While it lives, ends what is read from, or written to, a connection once a time is over, and leaves the connection
/// as it is, for an answer: tcp_stream's own time-out closes it. On the network thread.
class ReadDeadline {
 public:
  ReadDeadline(boost::beast::tcp_stream& stream, std::chrono::milliseconds limit)
      : state_(std::make_shared<State>(stream)) {
    stream.expires_never();
    wait(state_, limit);
  }
  ~ReadDeadline() {
    state_->has_ended = true;
    state_->timer.cancel();
  }
  ReadDeadline(const ReadDeadline&) = delete;
  ReadDeadline& operator=(const ReadDeadline&) = delete;

  bool is_over() const { return state_->is_over; }

 private:
  struct State {
    explicit State(boost::beast::tcp_stream& of) : stream(of), timer(of.get_executor()) {}
    boost::beast::tcp_stream& stream;  // not once has_ended
    boost::asio::steady_timer timer;
    bool is_over = false, has_ended = false;
  };

  static void wait(const std::shared_ptr<State>& state, std::chrono::milliseconds time) {
    // Beast reads a request piece by piece: between two there is nothing to end, so that it takes another attempt.
    constexpr std::chrono::milliseconds kAgain{20};
    state->timer.expires_after(time);
    state->timer.async_wait([state](const boost::system::error_code&) {
      if (state->has_ended) return;
      state->is_over = true;
      state->stream.cancel();
      wait(state, kAgain);
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace nostos::server
