// Implements the listener on Boost.Beast: one coroutine a connection, all on one network thread.
#include "apps/server/http.h"

#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "base/error.h"

namespace nostos::server {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
namespace net = boost::asio;
using boost::system::error_code;
using net::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kHangupCheck{250};
constexpr milliseconds kLinger{2000};
constexpr int kHandlerThreads = 2;
constexpr std::chrono::seconds kStreamSilence{15};
constexpr std::string_view kStreamComment = ": keep-alive\n\n";

net::redirect_error_t<net::use_awaitable_t<>> into(error_code& error) {
  return net::redirect_error(net::use_awaitable, error);
}

/// Runs `work` on a handler thread. What it throws has nobody else to catch it: it is logged, and the server goes on.
void post_to(net::thread_pool& handlers, std::function<void()> work) {
  net::post(handlers, [work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& error) {
      log_json(LogLevel::error, "handler failed", {{"error", error.what()}});
    }
  });
}

/// Carries one answer from any thread to the connection's coroutine.
class Outlet : public Responder, public std::enable_shared_from_this<Outlet> {
 public:
  Outlet(net::io_context& network, net::thread_pool& handlers, size_t backlog_bytes)
      : network_(network), handlers_(handlers), wake_(network), backlog_bytes_(backlog_bytes) {}

  void reply(HttpResponse response) override {
    change([&] {
      if (head_) return;
      head_ = std::move(response);
      ended_ = true;
    });
  }
  void start_stream(HttpResponse head) override {
    change([&] {
      if (head_) return;
      parts_.push_back(std::exchange(head.body, {}));
      head_ = std::move(head);
      streams_ = true;
    });
  }
  void write(std::string bytes) override {
    change([&] {
      if (gone_ || ended_) return;
      unsent_bytes_ += bytes.size();
      parts_.push_back(std::move(bytes));
    });
  }
  void finish() override {
    change([&] { ended_ = true; });
  }
  void on_disconnect(std::function<void()> gone) override {
    const std::lock_guard lock(mutex_);
    if (gone_)
      post_to(handlers_, std::move(gone));
    else
      on_gone_ = std::move(gone);
  }

  // The rest is the coroutine's.
  struct Next {
    std::optional<HttpResponse> head;
    std::string bytes;
    bool streams = false, ended = false, too_slow = false;
  };
  /// \return what has not been sent yet.
  Next take() {
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
  /// \return whether more waits for a client that is slow to take what it has been sent than it may.
  bool is_too_slow() {
    const std::lock_guard lock(mutex_);
    return !ended_ && unsent_bytes_ > backlog_bytes_;
  }
  /// Waits until there is something to take, or for the time after which to look whether the client has left.
  net::awaitable<void> wait() {
    {
      const std::lock_guard lock(mutex_);
      if (has_news_) co_return;
    }
    error_code ignored;
    wake_.expires_after(kHangupCheck);
    co_await wake_.async_wait(into(ignored));
  }
  void close(bool disconnected) {
    std::function<void()> gone;
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
      parts_.clear();
      gone = std::exchange(on_gone_, nullptr);
    }
    if (disconnected && gone) post_to(handlers_, std::move(gone));
  }

 private:
  template <class Change>
  void change(const Change& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
      has_news_ = true;
    }
    // On the network thread, where wait() looks for news and sets its timer without a gap between.
    net::post(network_, [self = shared_from_this()] { self->wake_.cancel(); });
  }

  net::io_context& network_;
  net::thread_pool& handlers_;
  net::steady_timer wake_;
  const size_t backlog_bytes_;
  std::mutex mutex_;
  std::optional<HttpResponse> head_;
  std::deque<std::string> parts_;
  std::function<void()> on_gone_;
  size_t unsent_bytes_ = 0;
  bool head_taken_ = false, streams_ = false, ended_ = false, gone_ = false;
  bool has_news_ = false;  // since take()
};

size_t allowed_connections(size_t wanted) {
  constexpr rlim_t kOthers = 128;  // database, pictures, weights
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, std::max<rlim_t>(limit.rlim_cur, wanted + kOthers));
  setrlimit(RLIMIT_NOFILE, &limit);
  return std::min<size_t>(wanted, limit.rlim_cur > 2 * kOthers ? limit.rlim_cur - kOthers : kOthers);
}

tcp::endpoint endpoint_of(const std::string& host, uint16_t port) {
  error_code error;
  const auto address = net::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  require(!error, ErrorKind::invalid_input, "--host {} is no IP address (0.0.0.0 and :: mean all of this machine)",
          host);
  return {address, port};
}

}  // namespace

struct HttpServer::Impl {
  struct Connection {
    explicit Connection(tcp::socket socket, size_t buffer_bytes) : stream(std::move(socket)), buffer(buffer_bytes) {}
    beast::tcp_stream stream;
    beast::flat_buffer buffer;
    std::string peer;
    bool idle = true;
  };

  Impl(const std::string& host, uint16_t port, HttpHooks given_hooks, HttpLimits given_limits)
      : hooks(std::move(given_hooks)), limits(given_limits), handlers(kHandlerThreads), acceptor(network) {
    limits.connections = allowed_connections(limits.connections);
    const tcp::endpoint endpoint = endpoint_of(host, port);
    try {
      acceptor.open(endpoint.protocol());
      acceptor.set_option(net::socket_base::reuse_address(true));
      acceptor.bind(endpoint);
      acceptor.listen(net::socket_base::max_listen_connections);
    } catch (const boost::system::system_error& error) {
      fail(ErrorKind::invalid_input, "cannot listen on {} port {}: {}", host, port, error.code().message());
    }
    bound_port = acceptor.local_endpoint().port();
  }

  net::awaitable<void> accept() {
    for (;;) {
      error_code error;
      tcp::socket socket = co_await acceptor.async_accept(into(error));
      if (!acceptor.is_open()) co_return;
      if (error) {
        // Out of file descriptors or an aborted handshake: others must get their chance.
        net::steady_timer pause(network, milliseconds(20));
        co_await pause.async_wait(into(error));
        continue;
      }
      socket.set_option(tcp::no_delay(true), error);
      auto connection = std::make_shared<Connection>(std::move(socket), limits.header_bytes + 4096);
      open.insert(connection);
      count = open.size();
      net::co_spawn(network, serve(connection), [this, connection](const std::exception_ptr&) {
        open.erase(connection);
        count = open.size();
      });
    }
  }

  net::awaitable<void> serve(std::shared_ptr<Connection> c) {
    error_code error;
    const tcp::endpoint peer = c->stream.socket().remote_endpoint(error);
    c->peer = peer.address().to_string();
    if (open.size() > limits.connections) {
      co_await refuse(*c, 503, "too many connections");
      co_return;
    }
    bool go_on = true;
    while (go_on && !stopping) {
      if (c->buffer.size() == 0) {
        c->idle = true;
        c->stream.expires_after(limits.idle_timeout);
        const auto space = c->buffer.prepare(4096);
        const size_t bytes = co_await c->stream.async_read_some(space, into(error));
        c->idle = false;
        if (error) co_return;
        c->buffer.commit(bytes);
      }
      go_on = co_await exchange(*c);
    }
    c->stream.socket().shutdown(tcp::socket::shutdown_send, error);
  }

  /// Reads one request and answers it. \return whether the connection can be used again.
  net::awaitable<bool> exchange(Connection& c) {
    error_code error;
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(limits.header_bytes));
    parser.body_limit(limits.body_bytes);
    c.stream.expires_after(limits.header_timeout);
    co_await http::async_read_header(c.stream, c.buffer, parser, into(error));
    if (!error && !parser.is_done()) {
      c.stream.expires_after(limits.body_timeout);
      if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
        static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        co_await net::async_write(c.stream, net::buffer(kContinue), into(error));
      }
      co_await http::async_read(c.stream, c.buffer, parser, into(error));
    }
    if (error) {
      co_await refuse_unreadable(c, error);
      co_return false;
    }
    const auto start = steady_clock::now();
    http::request<http::string_body> message = parser.release();
    HttpRequest request;
    if (!split_target({message.target().data(), message.target().size()}, request)) {
      co_await refuse(c, 400, "the request's path is not proper: it begins with / and is UTF-8 once %XX are decoded");
      co_return false;
    }
    if (message.version() >= 11 && message.count(http::field::host) != 1) {
      co_await refuse(c, 400, "a request of HTTP/1.1 has one Host header");
      co_return false;
    }
    request.method = std::string(message.method_string());
    for (const auto& field : message) {
      std::string name(field.name_string());
      std::ranges::transform(name, name.begin(), [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
      request.headers[std::move(name)] = std::string(field.value());
    }
    request.peer = c.peer;
    request.id = request_id(request.header("x-request-id"));
    request.body = std::move(message.body());

    HttpRequest for_log = request;
    for_log.body.clear();
    for_log.headers.erase("authorization");
    auto outlet = std::make_shared<Outlet>(network, handlers, limits.stream_backlog_bytes);
    post_to(handlers, [this, request = std::move(request), outlet] { hooks.handle(request, outlet); });
    HttpOutcome outcome;
    const bool go_on = co_await answer(c, *outlet, message, for_log.id, outcome);
    outlet->close(outcome.disconnected);
    outcome.ms = std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
    hooks.finished(for_log, outcome);
    co_return go_on;
  }

  /// Sends what comes through `outlet`. \return whether the connection can be used again.
  net::awaitable<bool> answer(Connection& c, Outlet& outlet, const http::request<http::string_body>& message,
                              const std::string& id, HttpOutcome& outcome) {
    const bool is_head = message.method() == http::verb::head;
    const bool chunked = message.version() >= 11;
    bool keep_alive = message.keep_alive() && !stopping;
    error_code error;
    auto last_sent = steady_clock::now();
    for (bool was_stopping = false;;) {
      Outlet::Next next = outlet.take();
      // At the end of the server a stream that stays silent for a round has nothing more to say.
      next.ended |= next.streams && was_stopping && next.bytes.empty();
      was_stopping = stopping;
      if (next.streams && !next.ended && next.bytes.empty() && steady_clock::now() - last_sent >= kStreamSilence)
        next.bytes = kStreamComment;
      c.stream.expires_after(limits.write_timeout);
      if (next.head && !next.streams) {
        outcome.status = next.head->status;
        outcome.body_bytes = next.head->body.size();
        co_await send(c, std::move(*next.head), message.version(), keep_alive, is_head, id, error);
        outcome.disconnected = static_cast<bool>(error);
        co_return keep_alive && !error;
      }
      if (next.head) {
        outcome.status = next.head->status;
        keep_alive = keep_alive && chunked;
        http::response<http::empty_body> head =
            head_of<http::empty_body>(*next.head, message.version(), keep_alive, id);
        head.chunked(chunked);
        http::response_serializer<http::empty_body> serializer(head);
        co_await http::async_write_header(c.stream, serializer, into(error));
        if (is_head) {
          outcome.disconnected = true;  // it wants nothing of what comes
          co_return keep_alive && !error;
        }
      }
      if (!error && !next.bytes.empty()) {
        last_sent = steady_clock::now();
        outcome.body_bytes += next.bytes.size();
        if (chunked)
          co_await write_pieces(c, outlet, http::make_chunk(net::buffer(next.bytes)), error);
        else
          co_await write_pieces(c, outlet, net::buffer(next.bytes), error);
      }
      if (!error && next.streams && next.ended) {
        const auto last = http::make_chunk_last();
        if (chunked) co_await net::async_write(c.stream, last, into(error));
        outcome.disconnected = static_cast<bool>(error);
        co_return keep_alive && !error;
      }
      if (error || next.too_slow || hung_up(c)) {
        outcome.disconnected = true;
        if (outcome.status == 0) outcome.status = 499;
        co_return false;
      }
      c.stream.expires_never();
      co_await outlet.wait();
    }
  }

  /// Writes all of `buffers`. Each piece that the client takes gives it the whole time again: one that is slow is not gone
  /// for that, unless its stream meanwhile has more to say than may wait.
  template <class Buffers>
  net::awaitable<void> write_pieces(Connection& c, Outlet& outlet, Buffers buffers, error_code& error) {
    beast::buffers_suffix<Buffers> left(buffers);
    while (!error && beast::buffer_bytes(left) > 0) {
      c.stream.expires_after(limits.write_timeout);
      left.consume(co_await c.stream.async_write_some(left, into(error)));
      if (!error && outlet.is_too_slow()) error = beast::error::timeout;
    }
  }

  template <class Body>
  static http::response<Body> head_of(const HttpResponse& from, unsigned version, bool keep_alive,
                                      const std::string& id) {
    http::response<Body> head(static_cast<http::status>(from.status), version);
    head.set(http::field::server, "nostos");
    head.set(http::field::content_type, from.content_type);
    if (!id.empty()) head.set("X-Request-Id", id);
    for (const auto& [name, value] : from.headers) head.set(name, value);
    head.keep_alive(keep_alive);
    return head;
  }

  /// Sends a whole answer, giving the client time for each piece as write_pieces() does.
  net::awaitable<void> send(Connection& c, HttpResponse response, unsigned version, bool keep_alive, bool is_head,
                            const std::string& id, error_code& error) {
    http::response<http::string_body> whole = head_of<http::string_body>(response, version, keep_alive, id);
    whole.body() = std::move(response.body);
    // A 304 has no body, and must not name the length of one.
    if (response.status != 304) whole.prepare_payload();
    http::response_serializer<http::string_body> serializer(whole);
    const auto is_sent = [&] { return is_head ? serializer.is_header_done() : serializer.is_done(); };
    serializer.split(is_head);
    while (!error && !is_sent()) {
      c.stream.expires_after(limits.write_timeout);
      co_await http::async_write_some(c.stream, serializer, into(error));
    }
  }

  net::awaitable<void> refuse_unreadable(Connection& c, const error_code& why) {
    if (why == http::error::header_limit || why == http::error::buffer_overflow) {
      co_await refuse(c, 431, fmt::format("the headers are larger than {} bytes", limits.header_bytes));
    } else if (why == http::error::body_limit) {
      co_await refuse(c, 413, fmt::format("the body is larger than {} bytes", limits.body_bytes));
    } else if (why == beast::error::timeout) {
      co_await refuse(c, 408, "the request did not come in time");
    } else if (why.category() == error_code(http::error::bad_method).category() && why != http::error::end_of_stream &&
               why != http::error::partial_message) {
      co_await refuse(c, 400, "not an HTTP request: " + why.message());
    }
  }

  /// Answers what never became a request, and closes without cutting the answer off.
  net::awaitable<void> refuse(Connection& c, int status, std::string message) {
    error_code error;
    HttpResponse response = hooks.refuse(status, message);
    HttpOutcome outcome{status, response.body.size(), 0, false};
    HttpRequest request;
    request.peer = c.peer;
    request.id = request_id("");
    co_await send(c, std::move(response), 11, false, false, request.id, error);
    hooks.finished(request, outcome);
    // Unread bytes would make the kernel reset the connection, and the client lose the answer.
    c.stream.expires_after(kLinger);
    c.stream.socket().shutdown(tcp::socket::shutdown_send, error);
    std::array<char, 16384> unread;
    while (!error) co_await c.stream.async_read_some(net::buffer(unread), into(error));
  }

  static bool hung_up(Connection& c) {
    pollfd state{c.stream.socket().native_handle(), POLLRDHUP, 0};
    return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  HttpHooks hooks;
  HttpLimits limits;
  net::io_context network{1};
  net::thread_pool handlers;
  tcp::acceptor acceptor;
  uint16_t bound_port = 0;
  std::set<std::shared_ptr<Connection>> open;  // network thread alone
  std::atomic<size_t> count{0};
  bool stopping = false;  // network thread alone
  std::thread thread;
};

HttpServer::HttpServer(const std::string& host, uint16_t port, HttpHooks hooks, HttpLimits limits)
    : impl_(std::make_unique<Impl>(host, port, std::move(hooks), limits)) {}

HttpServer::~HttpServer() { stop(milliseconds(0)); }

uint16_t HttpServer::port() const { return impl_->bound_port; }
size_t HttpServer::connections() const { return impl_->count; }

void HttpServer::start() {
  net::co_spawn(impl_->network, impl_->accept(), net::detached);
  impl_->thread = std::thread([this] { impl_->network.run(); });
}

void HttpServer::post(std::function<void()> work) { post_to(impl_->handlers, std::move(work)); }

void HttpServer::stop(milliseconds patience) {
  if (!impl_->thread.joinable()) return;
  net::post(impl_->network, [this] {
    error_code ignored;
    impl_->stopping = true;
    impl_->acceptor.close(ignored);
    for (const auto& connection : impl_->open)
      if (connection->idle) connection->stream.cancel();
  });
  const auto deadline = steady_clock::now() + patience;
  while (impl_->count > 0 && steady_clock::now() < deadline) std::this_thread::sleep_for(milliseconds(5));
  impl_->handlers.join();
  impl_->network.stop();
  impl_->thread.join();
}

bool is_loopback(const std::string& host) { return endpoint_of(host, 0).address().is_loopback(); }

}  // namespace nostos::server
