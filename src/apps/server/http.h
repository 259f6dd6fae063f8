// Owns the HTTP/1.1 listener as handlers see it: requests, answers, streams, and HttpLimits, the most bytes, seconds
// and connections. Its transport stays inside http.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/server/body_file.h"

namespace nostos::server {

struct HttpRequest {
  std::string method{};
  std::string path{};                            ///< percent-decoded, without the query; begins with '/', or is "*"
  std::map<std::string, std::string> query{};    ///< percent-decoded
  std::map<std::string, std::string> headers{};  ///< names in lower case; repeated ones are one list
  std::string body{};
  std::string peer{};                 ///< address of the other end
  std::string id{};                   ///< X-Request-Id, given or made
  std::shared_ptr<void> body_room{};  ///< of HttpLimits::large_bodies_bytes, kept for as long as the body

  /// \return the header of that lower-case name, or an empty text.
  std::string_view header(const std::string& name) const;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

/// A part of a file.
struct FilePart {
  std::shared_ptr<const BodyFile> file;
  uint64_t first = 0, count = 0;  ///< bytes
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body{};
  HttpHeaders headers{};
  std::optional<FilePart> file{};  ///< the body, in place of `body`: read and sent piece by piece
};

/// The way back to one request's client. Any thread. Either reply(), or start_stream(), write()... and finish().
/// What is sent to a client that has gone is dropped. A client that ends its own sending alone is still there.
/// It goes before the HttpServer that made it.
class Responder {
 public:
  virtual ~Responder() = default;
  virtual void reply(HttpResponse response) = 0;
  /// Begins a stream of server-sent events whose `body` is its first part. A comment goes out where none comes for
  /// HttpLimits::silence.
  virtual void start_stream(HttpResponse head) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void finish() = 0;
  /// `gone` runs once, on a handler thread, if the client leaves, or is too slow for its stream, before the answer
  /// ends.
  virtual void on_disconnect(std::function<void()> gone) = 0;
};

struct HttpLimits {
  size_t header_bytes = size_t{16} << 10;
  size_t body_bytes = size_t{1} << 20;             ///< where HttpHooks::body_limit does not say otherwise
  size_t large_bodies_bytes = size_t{256} << 20;   ///< of all bodies together that are larger than body_bytes
  size_t stream_backlog_bytes = size_t{64} << 20;  ///< unsent bytes of a stream at which its client counts as gone
  size_t connections = 4096;                       ///< less where the process may not open that many files
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};  ///< and a second more for each MB of a large one
  std::chrono::milliseconds idle_timeout{75'000};
  std::chrono::milliseconds write_timeout{30'000};  ///< in which a client takes nothing of what it is sent
  std::chrono::milliseconds silence{15'000};        ///< after which a stream's client is sent a comment
  std::chrono::milliseconds peer_check{250};        ///< between two looks whether a client that waits has left
};

/// What became of a request, for logs and metrics.
struct HttpOutcome {
  int status = 0;
  uint64_t body_bytes = 0;
  double ms = 0;
  bool disconnected = false;
};

/// What the listener calls. `refuse` and `finished` must not throw; what `handle` throws is logged, and leaves the
/// client without an answer.
struct HttpHooks {
  /// On a handler thread: answers now or later. \param request its own, which it may keep
  std::function<void(HttpRequest&& request, const std::shared_ptr<Responder>& responder)> handle;
  /// On the network thread, before the body is read: how many bytes the request's body may have; where it is empty,
  /// HttpLimits::body_bytes. Must not throw. \param request its head
  std::function<size_t(const HttpRequest& request)> body_limit = {};
  /// On the network thread: the answer to what is no proper request. \param request what could be read of it
  std::function<HttpResponse(const HttpRequest& request, int status, const std::string& message)> refuse;
  /// On the network thread, after each answered request, of which it gets method, path, peer and id.
  std::function<void(const HttpRequest& request, const HttpOutcome& outcome)> finished;
};

/// A listener: one network thread and two handler threads, so that a handler may wait for a disk while others are
/// served.
class HttpServer {
 public:
  /// Binds and listens. \param port 0: any free one. \throws Error invalid_input naming the address.
  HttpServer(const std::string& host, uint16_t port, HttpHooks hooks, HttpLimits limits = {});
  /// Ends as stop(), without patience.
  ~HttpServer();

  uint16_t port() const;
  size_t connections() const;
  /// Starts the threads.
  void start();
  /// Runs `work` on a handler thread. What it throws is logged.
  void post(std::function<void()> work);
  /// Accepts no more, closes idle connections, and waits up to `patience` for answers under way.
  void stop(std::chrono::milliseconds patience);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// \return whether `host` is this machine's own loopback address. \throws Error invalid_input if it is no address.
bool is_loopback(const std::string& host);

}  // namespace nostos::server
