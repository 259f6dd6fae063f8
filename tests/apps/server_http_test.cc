// Tests the listener itself: slow clients, streams, and work that throws.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>

#include "apps/server/http.h"
#include "base/error.h"

namespace nostos::server {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

/// A client that has asked for /, and takes the answer at its own pace.
class Client {
 public:
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const int bytes = 64 << 10;  // little waits on this side, so that its pace is the server's
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    const std::string_view request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    EXPECT_EQ(::send(socket_, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// \return what comes, up to `most` bytes, or nothing at the end.
  std::string read(size_t most = size_t{256} << 10) {
    std::string part(most, '\0');
    part.resize(static_cast<size_t>(std::max<ssize_t>(::recv(socket_, part.data(), most, 0), 0)));
    return part;
  }
  /// \return all that comes, with a `pause` after each part.
  std::string read_all(std::chrono::milliseconds pause = 0ms) {
    std::string all;
    for (std::string part = read(); !part.empty(); part = read()) {
      all += part;
      if (pause > 0ms) std::this_thread::sleep_for(pause);
    }
    return all;
  }

 private:
  int socket_;
};

constexpr size_t kMuch = size_t{32} << 20;  // more than the kernel takes at once

class ServerHttp : public testing::Test {
 protected:
  using Handle = decltype(HttpHooks::handle);

  void start(Handle handle, HttpLimits limits = {}) {
    server_.reset();  // its thread may still be about to leave set_value()
    ended_ = {};
    HttpHooks hooks{.handle = std::move(handle),
                    .refuse = [](int status, const std::string&) { return HttpResponse{.status = status}; },
                    .finished = [this](const HttpRequest&, const HttpOutcome& outcome) { ended_.set_value(outcome); }};
    server_ = std::make_unique<HttpServer>("127.0.0.1", 0, std::move(hooks), limits);
    server_->start();
  }

  std::promise<HttpOutcome> ended_;  // of the one request
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ServerHttp, AClientThatTakesALittleAtATimeGetsAll) {
  for (const bool streams : {false, true}) {
    const auto handle = [streams](const HttpRequest&, const std::shared_ptr<Responder>& out) {
      if (!streams) return out->reply({.body = std::string(kMuch, 'x')});
      out->start_stream({.body = std::string(kMuch, 'x')});
      out->finish();
    };
    start(handle, {.write_timeout = 500ms});
    Client client(server_->port());
    const auto begin = steady_clock::now();
    const std::string all = client.read_all(4ms);
    EXPECT_GT(steady_clock::now() - begin, 600ms);  // or it was not slow
    EXPECT_EQ(static_cast<size_t>(std::ranges::count(all, 'x')), kMuch);
    EXPECT_FALSE(ended_.get_future().get().disconnected);
  }
}

TEST_F(ServerHttp, AClientThatTakesNothingIsCut) {
  start(
      [](const HttpRequest&, const std::shared_ptr<Responder>& out) { out->reply({.body = std::string(kMuch, 'x')}); },
      {.write_timeout = 300ms});
  const Client client(server_->port());
  const HttpOutcome outcome = ended_.get_future().get();
  EXPECT_TRUE(outcome.disconnected);
  EXPECT_LT(outcome.ms, 20'000);
}

TEST_F(ServerHttp, AStreamWithMoreToSayThanMayWaitIsCutThoughItsClientTakesALittle) {
  std::promise<std::shared_ptr<Responder>> begun;
  start(
      [&begun](const HttpRequest&, const std::shared_ptr<Responder>& out) {
        out->start_stream({.body = std::string(kMuch, 'x')});
        begun.set_value(out);
      },
      {.stream_backlog_bytes = size_t{64} << 20});
  Client client(server_->port());
  EXPECT_FALSE(client.read().empty());
  const std::shared_ptr<Responder> stream = begun.get_future().get();
  for (int i = 0; i < 70; ++i) stream->write(std::string(1 << 20, 'y'));
  EXPECT_EQ(client.read_all(1ms).find('y'), std::string::npos);
  EXPECT_TRUE(ended_.get_future().get().disconnected);
}

// What comes while a part is on its way is sent after it, not a quarter of a second later.
TEST_F(ServerHttp, APartThatComesDuringAWriteFollowsIt) {
  auto least = steady_clock::duration::max();
  for (int round = 0; round < 5; ++round) {
    start([](const HttpRequest&, const std::shared_ptr<Responder>& out) {
      out->start_stream({.body = std::string(kMuch, 'x')});
      std::this_thread::sleep_for(50ms);
      out->write("tail");
      std::this_thread::sleep_for(1s);
      out->finish();
    });
    Client client(server_->port());
    std::this_thread::sleep_for(200ms);
    const auto begin = steady_clock::now();
    std::string last;
    while (last.find("tail") == std::string::npos) {
      const std::string part = client.read();
      ASSERT_FALSE(part.empty());
      last = last.substr(last.size() - std::min<size_t>(last.size(), 4)) + part;
    }
    least = std::min(least, steady_clock::now() - begin);
    client.read_all();
  }
  EXPECT_LT(least, 200ms);
}

TEST_F(ServerHttp, WorkThatThrowsEndsNothing) {
  start([](const HttpRequest&, const std::shared_ptr<Responder>& out) {
    out->on_disconnect([] { fail(ErrorKind::internal, "the disk is full"); });
    fail(ErrorKind::internal, "the disk is full, too");
  });
  { const Client gone(server_->port()); }
  EXPECT_TRUE(ended_.get_future().get().disconnected);
  server_->post([] { fail(ErrorKind::internal, "still"); });
  std::promise<void> went_on;
  server_->post([&] { went_on.set_value(); });
  went_on.get_future().get();
}

}  // namespace
}  // namespace nostos::server
