// Implements the way of an answer to its connection.
#include "apps/server/outlet.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/server/json_log.h"

namespace nostos::server {

namespace net = boost::asio;

void post_to(net::thread_pool& handlers, std::function<void()> work) {
  net::post(handlers, [work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& error) {
      log_json(LogLevel::error, "handler failed", {{"error", error.what()}});
    }
  });
}

template <class Change>
void Outlet::change(const Change& change) {
  {
    const std::lock_guard lock(mutex_);
    change();
    has_news_ = true;
  }
  // On the network thread, where wait() looks for news and sets its timer without a gap between.
  net::post(network_, [self = shared_from_this()] { self->wake_.cancel(); });
}

void Outlet::reply(HttpResponse response) {
  change([&] {
    if (head_) return;
    head_ = std::move(response);
    ended_ = true;
  });
}

void Outlet::start_stream(HttpResponse head) {
  change([&] {
    if (head_) return;
    parts_.push_back(std::exchange(head.body, {}));
    head_ = std::move(head);
    streams_ = true;
  });
}

void Outlet::write(std::string bytes) {
  change([&] {
    if (gone_ || ended_) return;
    unsent_bytes_ += bytes.size();
    parts_.push_back(std::move(bytes));
  });
}

void Outlet::finish() {
  change([&] { ended_ = true; });
}

void Outlet::on_disconnect(std::function<void()> gone) {
  const std::lock_guard lock(mutex_);
  if (gone_)
    post_to(handlers_, std::move(gone));
  else
    on_gone_ = std::move(gone);
}

Outlet::Next Outlet::take() {
  const std::lock_guard lock(mutex_);
  has_news_ = false;
  Next next;
  if (!head_) return next;
  if (!head_taken_) {
    next.head = std::move(*head_);
    head_taken_ = true;
  }
  for (const std::string& part : parts_) next.bytes += part;
  next.too_slow = unsent_bytes_ > backlog_bytes_;
  parts_.clear();
  unsent_bytes_ = 0;
  next.streams = streams_;
  next.ended = ended_;
  return next;
}

bool Outlet::is_too_slow() {
  const std::lock_guard lock(mutex_);
  return !ended_ && unsent_bytes_ > backlog_bytes_;
}

net::awaitable<void> Outlet::wait(std::chrono::milliseconds time) {
  {
    const std::lock_guard lock(mutex_);
    if (has_news_) co_return;
  }
  boost::system::error_code ignored;
  wake_.expires_after(time);
  co_await wake_.async_wait(net::redirect_error(net::use_awaitable, ignored));
}

void Outlet::close(bool disconnected) {
  std::function<void()> gone;
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    parts_.clear();
    gone = std::exchange(on_gone_, nullptr);
  }
  if (disconnected && gone) post_to(handlers_, std::move(gone));
}

}  // namespace nostos::server
