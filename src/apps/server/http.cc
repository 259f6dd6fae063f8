// Implements the listener on Boost.Beast: one coroutine a connection, all on one network thread.
#include "apps/server/http.h"

#include <fmt/chrono.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <ctime>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <sstream>
#include <thread>

#include "apps/server/body_room.h"
#include "apps/server/http_head.h"
#include "apps/server/identifiers.h"
#include "apps/server/json_log.h"
#include "apps/server/outlet.h"
#include "apps/server/read_deadline.h"
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

constexpr milliseconds kLinger{2000};
constexpr int kHandlerThreads = 2;
constexpr size_t kPieceBytes = size_t{64} << 10;  // of a file that is sent
constexpr int kSecondsToProbe = 15, kProbes = 4;  // a host that vanished is noticed after 75 s
constexpr std::string_view kStreamComment = ": keep-alive\n\n";
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

net::redirect_error_t<net::use_awaitable_t<>> into(error_code& error) {
  return net::redirect_error(net::use_awaitable, error);
}

size_t allowed_connections(size_t wanted) {
  constexpr rlim_t kOthers = 128;  // database, pictures, weights
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  // Two for each: its socket, and the file of a picture that is sent.
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, std::max<rlim_t>(limit.rlim_cur, 2 * wanted + kOthers));
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

void set_options(tcp::socket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(net::socket_base::keep_alive(true), ignored);
  for (const auto& [option, value] : {std::pair(TCP_KEEPIDLE, kSecondsToProbe),
                                      std::pair(TCP_KEEPINTVL, kSecondsToProbe), std::pair(TCP_KEEPCNT, kProbes)})
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, option, &value, sizeof value);
}

/// Empty lines before a request count for nothing (RFC 9112, 2.2).
void skip_empty_lines(beast::flat_buffer& buffer) {
  const auto begins_with_one = [&] {
    const std::string_view text(static_cast<const char*>(buffer.data().data()), buffer.size());
    return text.starts_with("\r\n");
  };
  while (begins_with_one()) buffer.consume(2);
}

/// What the kernel knows of a client that waits. One that has ended its sending alone (`half_closed`) wants its answer;
/// one that has left looks the same, until its host answers what it is sent with a reset.
enum class Peer { here, half_closed, gone };

/// When a client that has nothing to take is sent something, so that its host can say whether it is still there.
struct Pulse {
  Peer peer = Peer::here;
  bool has_asked = false;  // since the client ended its sending
  steady_clock::time_point last_sent = steady_clock::now();

  bool is_due(Peer now, bool streams, const HttpLimits& limits) {
    peer = now;
    const auto silence = steady_clock::now() - last_sent;
    if (now != Peer::half_closed) return streams && silence >= limits.silence;
    // The first time after a moment, which most answers are there before.
    const bool is_due = silence >= (has_asked ? limits.silence : limits.peer_check);
    has_asked |= is_due;
    return is_due;
  }
};

/// What an answer must know of its request.
struct Terms {
  unsigned version = 11;
  bool keep_alive = false, is_head = false;
  std::string id{};

  bool chunks() const { return version >= 11; }
};

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
      : hooks(std::move(given_hooks)),
        limits(given_limits),
        body_room(given_limits.large_bodies_bytes),
        handlers(kHandlerThreads),
        acceptor(network) {
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
      set_options(socket);
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
      HttpRequest unread;
      unread.peer = c->peer;
      unread.id = request_id("");
      co_await refuse(*c, std::move(unread), {503, "too many connections"});
      co_return;
    }
    bool go_on = true;
    while (go_on && !stopping) {
      skip_empty_lines(c->buffer);
      if (c->buffer.size() == 0) {
        c->idle = true;
        c->stream.expires_after(limits.idle_timeout);
        const auto space = c->buffer.prepare(4096);
        const size_t bytes = co_await c->stream.async_read_some(space, into(error));
        c->idle = false;
        if (error) co_return;
        c->buffer.commit(bytes);
        continue;
      }
      go_on = co_await exchange(*c);
    }
    c->stream.socket().shutdown(tcp::socket::shutdown_send, error);
  }

  /// Reads one request and answers it. \return whether the connection can be used again.
  net::awaitable<bool> exchange(Connection& c) {
    error_code error;
    Parser parser;
    parser.header_limit(static_cast<uint32_t>(limits.header_bytes));
    parser.body_limit(boost::none);  // make_room() says what is too large, once it is known of which path
    co_await read_header(c, parser, error);
    HttpRequest request;
    request.peer = c.peer;
    std::optional<Refusal> refusal;
    // Now, since Beast takes trailers for headers, which nobody before this server looked at.
    if (!error) refusal = read_head(parser.get(), request);
    request.id = request_id(request.header("x-request-id"));
    size_t most = limits.body_bytes;
    if (!error && !refusal) refusal = make_room(parser, request, most);
    if (!error && !refusal && !parser.is_done()) co_await read_body(c, parser, request, error);
    if (error && !refusal) refusal = refusal_of(error, most);
    if (error && !refusal) co_return false;
    if (refusal) {
      co_await refuse(c, std::move(request), *refusal);
      co_return false;
    }
    const auto start = steady_clock::now();
    request.body = std::move(parser.get().body());
    const HttpRequest for_log{.method = request.method, .path = request.path, .peer = request.peer, .id = request.id};
    const Terms terms{parser.get().version(), parser.keep_alive() && !stopping, request.method == "HEAD", request.id};
    auto outlet = std::make_shared<Outlet>(network, handlers, limits.stream_backlog_bytes);
    post_to(handlers,
            [this, request = std::move(request), outlet]() mutable { hooks.handle(std::move(request), outlet); });
    HttpOutcome outcome;
    const bool go_on = co_await answer(c, *outlet, terms, outcome);
    outlet->close(outcome.disconnected || terms.is_head);  // who asked for a head alone wants nothing of what comes
    outcome.ms = std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
    hooks.finished(for_log, outcome);
    if (!go_on && !outcome.disconnected) co_await close_gently(c);
    co_return go_on;
  }

  using Parser = http::request_parser<http::string_body>;

  net::awaitable<void> read_header(Connection& c, Parser& parser, error_code& error) {
    const ReadDeadline deadline(c.stream, limits.header_timeout);
    co_await http::async_read_header(c.stream, c.buffer, parser, into(error));
    if (error && deadline.is_over()) error = beast::error::timeout;
  }

  /// Says how large the body may be, and finds room for a large one, before any of it is read.
  /// \param most gets the bytes
  std::optional<Refusal> make_room(Parser& parser, HttpRequest& request, size_t& most) {
    if (hooks.body_limit) most = hooks.body_limit(request);
    const uint64_t length = parser.content_length().value_or(parser.chunked() ? most : 0);
    if (length > most) return too_large(most);
    parser.body_limit(most);
    if (length <= limits.body_bytes) return std::nullopt;
    request.body_room = body_room.take(length);
    if (request.body_room == nullptr) return Refusal{503, "other clients are sending pictures; come again in a moment"};
    return std::nullopt;
  }

  static Refusal too_large(size_t most) { return {413, fmt::format("the body is larger than {} bytes", most)}; }

  net::awaitable<void> read_body(Connection& c, Parser& parser, const HttpRequest& request, error_code& error) {
    const uint64_t bytes = parser.content_length().value_or(0);
    const ReadDeadline deadline(c.stream, limits.body_timeout + std::chrono::seconds(bytes >> 20));
    const bool waits = parser.get().version() >= 11 && !request.header("expect").empty();
    if (waits) co_await net::async_write(c.stream, net::buffer(kContinue), into(error));
    if (!error) co_await http::async_read(c.stream, c.buffer, parser, into(error));
    if (error && deadline.is_over()) error = beast::error::timeout;
  }

  /// Sends what comes through `outlet`. \return whether the connection can be used again.
  net::awaitable<bool> answer(Connection& c, Outlet& outlet, const Terms& terms, HttpOutcome& outcome) {
    error_code error;
    Pulse pulse;
    for (bool was_stopping = false;;) {
      Outlet::Next next = outlet.take();
      // At the end of the server a stream that stays silent for a round has nothing more to say.
      next.ended |= next.streams && was_stopping && next.bytes.empty();
      was_stopping = stopping;
      if (next.head) outcome.status = next.head->status;
      if (next.head && !next.streams) {
        co_await send(c, std::move(*next.head), terms, outcome, error);
        co_return terms.keep_alive && !error;
      }
      const bool asks = pulse.is_due(look_at(c), next.streams, limits) && next.bytes.empty() && !next.ended;
      std::string before, after;
      if (next.head) before = head_of(*next.head, terms, std::nullopt);
      if (terms.is_head) next.bytes.clear();
      if (asks && next.streams && !terms.is_head) next.bytes = kStreamComment;
      // Clients skip it where they did not ask for it, too; of HTTP/1.0 there is nothing like it.
      if (asks && !next.streams && terms.chunks()) before = kContinue;
      if (next.streams && terms.chunks() && !terms.is_head) frame(next.bytes, next.ended, before, after);
      const std::array<net::const_buffer, 3> buffers{net::buffer(before), net::buffer(next.bytes), net::buffer(after)};
      if (net::buffer_size(buffers) > 0) {
        pulse.last_sent = steady_clock::now();
        outcome.body_bytes += next.bytes.size();
        co_await write_pieces(c, buffers, error, &outlet);
      }
      if (!error && next.streams && (next.ended || terms.is_head)) co_return terms.keep_alive&& terms.chunks();
      if (error || next.too_slow || pulse.peer == Peer::gone) {
        outcome.disconnected = true;
        if (outcome.status == 0) outcome.status = 499;
        co_return false;
      }
      co_await outlet.wait(limits.peer_check);
    }
  }

  /// Makes a chunk of a part of a stream.
  static void frame(const std::string& bytes, bool is_last, std::string& before, std::string& after) {
    if (!bytes.empty()) {
      before += fmt::format("{:x}\r\n", bytes.size());
      after = "\r\n";
    }
    if (is_last) after += "0\r\n\r\n";
  }

  /// Sends a whole answer.
  net::awaitable<void> send(Connection& c, HttpResponse response, const Terms& terms, HttpOutcome& outcome,
                            error_code& error) {
    if (response.file) response.body.clear();
    const uint64_t length = response.file ? response.file->count : response.body.size();
    const std::string head = head_of(response, terms, length);
    if (terms.is_head) response.body.clear();
    const std::array<net::const_buffer, 2> buffers{net::buffer(head), net::buffer(response.body)};
    co_await write_pieces(c, buffers, error);
    if (response.file && !terms.is_head && !error) co_await send_file(c, *response.file, error);
    outcome.status = response.status;
    outcome.body_bytes = terms.is_head ? 0 : length;
    outcome.disconnected = static_cast<bool>(error);
  }

  /// Sends a part of a file, of which no more than a piece is ever in memory, and which handler threads read.
  net::awaitable<void> send_file(Connection& c, const FilePart& part, error_code& error) {
    std::vector<char> piece(std::min<uint64_t>(part.count, kPieceBytes));
    for (uint64_t done = 0; !error && done < part.count;) {
      const std::span<char> wanted(piece.data(), std::min<uint64_t>(piece.size(), part.count - done));
      const auto read = [&part, done, wanted]() -> net::awaitable<bool> {
        try {
          co_return part.file->read(part.first + done, wanted) == wanted.size();
        } catch (const Error& failure) {
          log_json(LogLevel::error, "handler failed", {{"error", failure.what()}});
          co_return false;
        }
      };
      const bool is_whole = co_await net::co_spawn(handlers, read, net::use_awaitable);
      // The length was promised: a client that gets less must see the connection end.
      if (!is_whole)
        error = http::error::partial_message;
      else
        co_await write_pieces(c, net::buffer(wanted.data(), wanted.size()), error);
      done += wanted.size();
    }
  }

  /// Writes all of `buffers`. Each piece that the client takes gives it the whole time again: one that is slow is not
  /// gone for that, unless its stream meanwhile has more to say than may wait.
  template <class Buffers>
  net::awaitable<void> write_pieces(Connection& c, Buffers buffers, error_code& error, Outlet* stream = nullptr) {
    beast::buffers_suffix<Buffers> left(buffers);
    while (!error && beast::buffer_bytes(left) > 0) {
      c.stream.expires_after(limits.write_timeout);
      left.consume(co_await c.stream.async_write_some(left, into(error)));
      if (!error && stream != nullptr && stream->is_too_slow()) error = beast::error::timeout;
    }
    c.stream.expires_never();
  }

  /// \return the lines before the body. \param length of the body; nothing for a stream
  static std::string head_of(const HttpResponse& from, const Terms& terms, std::optional<uint64_t> length) {
    http::response<http::empty_body> head(static_cast<http::status>(from.status), terms.version);
    head.set(http::field::server, "nostos");
    head.set(http::field::date, fmt::format("{:%a, %d %b %Y %H:%M:%S GMT}", fmt::gmtime(std::time(nullptr))));
    if (!terms.id.empty()) head.set("X-Request-Id", terms.id);
    for (const auto& [name, value] : from.headers) head.insert(name, value);
    // These have no body, and must not name the length of one.
    if (from.status != 204 && from.status != 304) {
      head.set(http::field::content_type, from.content_type);
      if (length)
        head.content_length(*length);
      else
        head.chunked(terms.chunks());
    }
    head.keep_alive(terms.keep_alive && (length || terms.chunks()));
    std::ostringstream text;
    text << head.base();
    return text.str();
  }

  /// \return how to answer what could not be read, or nothing for a client that left before it asked.
  /// \param most bytes of a body
  std::optional<Refusal> refusal_of(const error_code& why, size_t most) const {
    if (why == http::error::header_limit || why == http::error::buffer_overflow)
      return Refusal{431, fmt::format("the headers are larger than {} bytes", limits.header_bytes)};
    if (why == http::error::body_limit) return too_large(most);
    if (why == beast::error::timeout) return Refusal{408, "the request did not come in time"};
    if (why == http::error::bad_version) return Refusal{505, "this server speaks HTTP/1.1 and HTTP/1.0"};
    if (why == http::error::partial_message) return Refusal{400, "the request ended before its length"};
    const bool is_syntax = why.category() == error_code(http::error::bad_method).category();
    if (!is_syntax || why == http::error::end_of_stream) return std::nullopt;
    return Refusal{400, "not an HTTP request: " + why.message()};
  }

  /// Answers what never became a request. \param request what could be read of it
  net::awaitable<void> refuse(Connection& c, HttpRequest request, const Refusal& why) {
    error_code error;
    HttpOutcome outcome;
    const Terms terms{.is_head = request.method == "HEAD", .id = request.id};
    co_await send(c, hooks.refuse(request, why.status, why.message), terms, outcome, error);
    hooks.finished(request, outcome);
    co_await close_gently(c);
  }

  /// Ends a connection whose client may still send: unread bytes would make the kernel reset it, and the client lose
  /// the answer (RFC 9112, 9.6).
  static net::awaitable<void> close_gently(Connection& c) {
    error_code error;
    c.idle = true;
    c.stream.expires_after(kLinger);
    c.stream.socket().shutdown(tcp::socket::shutdown_send, error);
    std::array<char, 16384> unread;
    while (!error) co_await c.stream.async_read_some(net::buffer(unread), into(error));
  }

  static Peer look_at(Connection& c) {
    pollfd state{c.stream.socket().native_handle(), POLLRDHUP, 0};
    if (::poll(&state, 1, 0) <= 0) return Peer::here;
    if ((state.revents & (POLLHUP | POLLERR)) != 0) return Peer::gone;
    return (state.revents & POLLRDHUP) != 0 ? Peer::half_closed : Peer::here;
  }

  HttpHooks hooks;
  HttpLimits limits;
  BodyRoom body_room;
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
