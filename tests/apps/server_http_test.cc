// Tests the listener itself: slow clients, clients that leave, streams, files, and work that throws.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "apps/server/http.h"
#include "base/error.h"

namespace nostos::server {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using ResponderPtr = std::shared_ptr<Responder>;

const std::string kGet = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const std::string kOldGet = "GET / HTTP/1.0\r\n\r\n";

/// A client that has sent a request, and takes the answer at its own pace.
class Client {
 public:
  explicit Client(uint16_t port, const std::string& request = kGet) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const int bytes = 64 << 10;  // little waits on this side, so that its pace is the server's
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    const timeval patience{60, 0};  // what does not come fails the test
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    send(request);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(const std::string& text) {
    EXPECT_EQ(::send(socket_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  /// Sends to a server that may have left.
  void try_to_send(const std::string& text) { ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL); }
  /// Says that nothing more comes from here.
  void end_sending() { EXPECT_EQ(::shutdown(socket_, SHUT_WR), 0); }
  /// Makes closing a reset, as the end of a process with unread bytes does.
  void reset_at_end() {
    const linger at_once{1, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }

  /// \return what comes, up to `most` bytes, or nothing at the end.
  std::string read(size_t most = size_t{256} << 10) {
    std::string part(most, '\0');
    part.resize(static_cast<size_t>(std::max<ssize_t>(::recv(socket_, part.data(), most, 0), 0)));
    return part;
  }
  std::string read_all() {
    std::string all;
    for (std::string part = read(); !part.empty(); part = read()) all += part;
    return all;
  }
  /// \return what has come when `text` has.
  std::string read_until(const std::string& text) {
    std::string all;
    for (std::string part; all.find(text) == std::string::npos; all += part) {
      part = read();
      if (part.empty()) return all;
    }
    return all;
  }

 private:
  int socket_;
};

constexpr size_t kMuch = size_t{32} << 20;  // more than the kernel takes at once

size_t count(const std::string& text, char c) { return static_cast<size_t>(std::ranges::count(text, c)); }

/// \return how many answers of that status a conversation has.
int answers(const std::string& conversation, const std::string& status) {
  int found = 0;
  for (const char* version : {"HTTP/1.1 ", "HTTP/1.0 "}) {
    const std::string line = version + status;
    for (size_t at = conversation.find(line); at != std::string::npos; at = conversation.find(line, at + 1)) ++found;
  }
  return found;
}

class ServerHttp : public testing::Test {
 protected:
  using Handle = decltype(HttpHooks::handle);

  void start(Handle handle, HttpLimits limits = {}) {
    HttpHooks hooks{
        .handle = std::move(handle),
        .refuse = [](const HttpRequest&, int status,
                     const std::string& message) { return HttpResponse{.status = status, .body = message}; },
        .finished =
            [this](const HttpRequest&, const HttpOutcome& outcome) {
              if (const std::lock_guard lock(mutex_); ++finished_ == 1) ended_.set_value(outcome);
            }};
    server_ = std::make_unique<HttpServer>("127.0.0.1", 0, std::move(hooks), limits);
    server_->start();
  }
  void start_again(Handle handle, HttpLimits limits = {}) {
    server_.reset();
    ended_ = {};
    finished_ = 0;
    start(std::move(handle), limits);
  }
  /// \return the whole conversation with a client that sends `text` and then nothing more.
  std::string talk(const std::string& text) {
    Client client(server_->port(), text);
    client.end_sending();
    return client.read_all();
  }

  std::promise<HttpOutcome> ended_;  // of the first request
  std::mutex mutex_;
  int finished_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ServerHttp, AClientThatTakesALittleAtATimeGetsAll) {
  for (const bool streams : {false, true}) {
    const auto handle = [streams](const HttpRequest&, const ResponderPtr& out) {
      if (!streams) return out->reply({.body = std::string(kMuch, 'x')});
      out->start_stream({.body = std::string(kMuch, 'x')});
      out->finish();
    };
    constexpr auto kTimeout = 1s;
    start_again(handle, {.write_timeout = kTimeout});
    Client client(server_->port());
    const auto begin = steady_clock::now();
    std::string all;
    while (steady_clock::now() - begin < kTimeout + 100ms) {  // or it was not slow
      all += client.read(16 << 10);
      std::this_thread::sleep_for(4ms);  // its pace
    }
    EXPECT_EQ(count(all + client.read_all(), 'x'), kMuch);
    EXPECT_FALSE(ended_.get_future().get().disconnected);
  }
}

TEST_F(ServerHttp, AClientThatTakesNothingIsCut) {
  start([](const HttpRequest&, const ResponderPtr& out) { out->reply({.body = std::string(kMuch, 'x')}); },
        {.write_timeout = 300ms});
  const Client client(server_->port());
  const HttpOutcome outcome = ended_.get_future().get();
  EXPECT_TRUE(outcome.disconnected);
  EXPECT_LT(outcome.ms, 20'000);
}

TEST_F(ServerHttp, AStreamWithMoreToSayThanMayWaitIsCutThoughItsClientTakesALittle) {
  std::promise<ResponderPtr> begun;
  start(
      [&begun](const HttpRequest&, const ResponderPtr& out) {
        out->start_stream({.body = std::string(kMuch, 'x')});
        begun.set_value(out);
      },
      {.stream_backlog_bytes = size_t{64} << 20});
  Client client(server_->port());
  EXPECT_FALSE(client.read().empty());
  const ResponderPtr stream = begun.get_future().get();
  for (int i = 0; i < 70; ++i) stream->write(std::string(1 << 20, 'y'));
  EXPECT_EQ(client.read_all().find('y'), std::string::npos);
  EXPECT_TRUE(ended_.get_future().get().disconnected);
}

// What comes while a part is on its way is sent after it, not when the client is looked at the next time.
TEST_F(ServerHttp, APartThatComesDuringAWriteFollowsIt) {
  std::promise<ResponderPtr> begun;
  start(
      [&begun](const HttpRequest&, const ResponderPtr& out) {
        out->start_stream({.body = std::string(kMuch, 'x')});
        begun.set_value(out);
      },
      {.peer_check = 1h});
  Client client(server_->port());
  EXPECT_FALSE(client.read().empty());  // the write has begun, and cannot end before the rest is read
  const ResponderPtr stream = begun.get_future().get();
  stream->write("tail");
  EXPECT_NE(client.read_until("tail").find("tail"), std::string::npos);
  stream->finish();
  EXPECT_TRUE(client.read_all().ends_with("0\r\n\r\n"));
}

TEST_F(ServerHttp, WorkThatThrowsEndsNothing) {
  start([](const HttpRequest&, const ResponderPtr& out) {
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

/// Hands every request's responder on, and says which clients left.
struct Waiting {
  std::promise<ResponderPtr> out;
  std::promise<void> gone;

  auto handler(bool streams) {
    return [this, streams](const HttpRequest&, const ResponderPtr& responder) {
      responder->on_disconnect([this] { gone.set_value(); });
      if (streams) responder->start_stream({.content_type = "text/event-stream"});
      out.set_value(responder);
    };
  }
};

constexpr HttpLimits kWatchful{.silence = 20ms, .peer_check = 5ms};

TEST_F(ServerHttp, AClientThatEndsItsSendingAloneGetsItsAnswer) {
  Waiting waiting;
  start(waiting.handler(false), {.peer_check = 5ms});
  Client client(server_->port());
  const auto out = waiting.out.get_future().get();
  client.end_sending();
  // What the server asks whether it is still there; it has noticed then.
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  out->reply({.body = "the answer"});
  const std::string answer = client.read_all();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(answer.ends_with("the answer")) << answer;
  EXPECT_FALSE(ended_.get_future().get().disconnected);
}

TEST_F(ServerHttp, AnOldClientThatEndsItsSendingAloneGetsNothingButItsAnswer) {
  Waiting waiting;
  start(waiting.handler(false), kWatchful);
  Client client(server_->port(), kOldGet);
  const auto out = waiting.out.get_future().get();
  client.end_sending();
  // Another one that did so later is asked, and so has the first been looked at.
  Waiting other;
  HttpServer second(
      "127.0.0.1", 0,
      {.handle = other.handler(false),
       .refuse = [](const HttpRequest&, int status, const std::string&) { return HttpResponse{.status = status}; },
       .finished = [](const HttpRequest&, const HttpOutcome&) {}},
      kWatchful);
  second.start();
  Client later(second.port());
  later.end_sending();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(later.read_until("\r\n\r\n").substr(0, 12), "HTTP/1.1 100");
  out->reply({.body = "the answer"});
  const std::string answer = client.read_all();
  EXPECT_TRUE(answer.starts_with("HTTP/1.0 200 OK\r\n")) << answer;
  EXPECT_TRUE(answer.ends_with("the answer")) << answer;
  other.out.get_future().get();  // a responder goes before its server
}

TEST_F(ServerHttp, AStreamsClientThatEndsItsSendingAloneGetsTheRest) {
  for (const std::string& request : {kGet, kOldGet}) {
    Waiting waiting;
    start_again(waiting.handler(true), {.peer_check = 5ms});
    Client client(server_->port(), request);
    auto out = waiting.out.get_future().get();
    EXPECT_NE(client.read_until("\r\n\r\n"), "");
    client.end_sending();
    EXPECT_NE(client.read_until(": keep-alive\n\n"), "");  // it was asked whether it is still there
    out->write("the rest");
    out->finish();
    EXPECT_NE(client.read_all().find("the rest"), std::string::npos);
    EXPECT_FALSE(ended_.get_future().get().disconnected);
    out = nullptr;  // a responder goes before its server
    server_.reset();
  }
}

TEST_F(ServerHttp, AClientThatHasGoneIsNoticed) {
  for (const bool streams : {false, true}) {
    for (const std::string& request : {kGet, kOldGet}) {
      for (const bool resets : {false, true}) {
        if (!streams && !resets && request == kOldGet) continue;  // the host's timers alone can tell, after a minute
        Waiting waiting;
        start_again(waiting.handler(streams), {.peer_check = 5ms});
        {
          Client client(server_->port(), request);
          waiting.out.get_future().wait();
          if (streams) client.read_until("\r\n\r\n");
          if (resets) client.reset_at_end();
        }
        waiting.gone.get_future().get();
        EXPECT_TRUE(ended_.get_future().get().disconnected);
        waiting.out = {};  // a responder goes before its server
        server_.reset();
      }
    }
  }
}

TEST_F(ServerHttp, AClientThatLeavesAfterItEndedItsSendingIsNoticed) {
  for (const bool streams : {false, true}) {
    Waiting waiting;
    start_again(waiting.handler(streams), kWatchful);
    {
      Client client(server_->port());
      waiting.out.get_future().wait();
      client.end_sending();
      client.read_until(streams ? ": keep-alive" : "100 Continue");
    }
    waiting.gone.get_future().get();
    EXPECT_TRUE(ended_.get_future().get().disconnected);
    waiting.out = {};  // a responder goes before its server
    server_.reset();
  }
}

TEST_F(ServerHttp, AClientThatSaidToCloseGetsItsAnswerThoughItSendsOn) {
  start([](const HttpRequest&, const ResponderPtr& out) { out->reply({.body = std::string(1 << 20, 'x')}); });
  Client client(server_->port(), kGet + std::string(1 << 20, 'y'));
  EXPECT_EQ(count(client.read_all(), 'x'), size_t{1} << 20);
}

/// A file of `bytes`, most of it a hole.
class BigFile {
 public:
  // The name is this process's own: tests run side by side.
  explicit BigFile(uint64_t bytes) : path_(testing::TempDir() + "nostos_big_file_" + std::to_string(getpid())) {
    std::ofstream(path_, std::ios::binary) << "begin";
    std::filesystem::resize_file(path_, bytes);
    std::ofstream(path_, std::ios::binary | std::ios::app) << "end";
    file_ = std::make_shared<const BodyFile>(path_);
  }
  ~BigFile() { std::filesystem::remove(path_); }
  BigFile(const BigFile&) = delete;
  BigFile& operator=(const BigFile&) = delete;
  FilePart part(uint64_t first, uint64_t count) const { return {file_, first, count}; }
  FilePart whole() const { return part(0, file_->size()); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::shared_ptr<const BodyFile> file_;
};

TEST_F(ServerHttp, FilesAreSentWholeAndInParts) {
  const BigFile file(kMuch);
  start([&](const HttpRequest& request, const ResponderPtr& out) {
    if (request.path == "/part") return out->reply({.file = file.part(3, kMuch - 2)});
    if (request.path == "/nothing") return out->reply({.file = file.part(7, 0)});
    out->reply({.body = "not this", .file = file.whole()});
  });
  const auto body = [this](const std::string& line) {
    const std::string all = talk(line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    return all.substr(all.find("\r\n\r\n") + 4);
  };
  EXPECT_TRUE(body("GET /") == "begin" + std::string(kMuch - 5, '\0') + "end");
  EXPECT_TRUE(body("GET /part") == "in" + std::string(kMuch - 5, '\0') + "e");
  EXPECT_EQ(body("GET /nothing"), "");
  EXPECT_EQ(body("HEAD /"), "");
  EXPECT_NE(talk("HEAD / HTTP/1.0\r\n\r\n").find("Content-Length: " + std::to_string(kMuch + 3)), std::string::npos);
}

TEST_F(ServerHttp, AFileThatIsCutWhileItIsSentEndsTheConnection) {
  const BigFile file(kMuch);
  start([&](const HttpRequest&, const ResponderPtr& out) { out->reply({.file = file.whole()}); });
  Client client(server_->port());
  EXPECT_NE(client.read_until("begin"), "");
  std::filesystem::resize_file(file.path(), kMuch / 2);
  EXPECT_LT(client.read_all().size(), kMuch);
  EXPECT_TRUE(ended_.get_future().get().disconnected);
}

TEST(ServerBodyFile, SaysWhatItCannotOpen) {
  const auto kind = [](const std::string& path) {
    try {
      BodyFile file(path);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos);
      return error.kind();
    }
    return ErrorKind::cancelled;  // it was opened
  };
  EXPECT_EQ(kind(testing::TempDir() + "nostos_missing"), ErrorKind::invalid_input);
  EXPECT_EQ(kind(testing::TempDir()), ErrorKind::invalid_input);
  EXPECT_EQ(kind("/" + std::string(5000, 'x')), ErrorKind::internal);
}

double resident_mib() {
  double total_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> total_pages >> resident_pages;
  return resident_pages * static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1 << 20);
}

TEST_F(ServerHttp, ManySlowClientsOfFilesTakeAPieceEach) {
  constexpr int kClients = 32;
  const BigFile file(kMuch);
  start([&](const HttpRequest&, const ResponderPtr& out) { out->reply({.file = file.whole()}); });
  const double before = resident_mib();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kClients; ++i) clients.push_back(std::make_unique<Client>(server_->port()));
  for (const auto& client : clients) EXPECT_NE(client->read(1000), "");  // all are being sent
  EXPECT_LT(resident_mib() - before, 32);                                // 1024 if they were in memory; 12 as measured
  server_.reset();                                                       // while reads and writes are under way
}

TEST_F(ServerHttp, HeadsAreAsTheyMustBe) {
  start([](const HttpRequest& request, const ResponderPtr& out) {
    out->reply({.status = request.path == "/none" ? 204 : 200, .body = request.path == "/none" ? "" : "body"});
  });
  const std::string plain = talk("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_NE(plain.find("Content-Length: 4\r\n"), std::string::npos) << plain;
  EXPECT_NE(plain.find("Date: "), std::string::npos) << plain;
  EXPECT_NE(plain.find(" GMT\r\n"), std::string::npos) << plain;
  const std::string none = talk("GET /none HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(none.find("Content-"), std::string::npos) << none;
  const std::string head = talk("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_NE(head.find("Content-Length: 4\r\n"), std::string::npos) << head;
  EXPECT_TRUE(head.ends_with("\r\n\r\n")) << head;
}

// What follows a body of unknown length must not be taken for a request.
TEST_F(ServerHttp, NothingIsSmuggledBehindARequest) {
  std::mutex mutex;
  std::multiset<std::string> paths;
  start([&](const HttpRequest& request, const ResponderPtr& out) {
    {
      const std::lock_guard lock(mutex);
      paths.insert(request.path);
    }
    out->reply({});
  });
  const std::string hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
  for (const std::string framing :
       {"Transfer-Encoding: gzip\r\n", "Transfer-Encoding: gzip\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked, identity\r\n", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "Content-Length: 0, 1\r\n", "Content-Length: +0\r\n",
        "Content-Length : 0\r\n", " Content-Length: 0\r\n"}) {
    const std::string all = talk("POST / HTTP/1.1\r\nHost: a\r\n" + framing + "\r\n" + hidden);
    EXPECT_EQ(answers(all, "400"), 1) << framing << all;
  }
  EXPECT_TRUE(paths.empty());
  // Two that are as they should be, with a trailer that nobody reads.
  const std::string sound =
      "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nConnection-Id: 1\r\n\r\n";
  EXPECT_EQ(answers(talk(sound + "\r\n" + hidden), "200"), 2);
}

TEST_F(ServerHttp, TrailersAreNoHeaders) {
  std::promise<std::string> origin;
  start([&](const HttpRequest& request, const ResponderPtr& out) {
    origin.set_value(std::string(request.header("x-client-id")) + request.body);
    out->reply({});
  });
  talk("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Client-Id: me\r\n\r\n");
  EXPECT_EQ(origin.get_future().get(), "abc");
}

TEST_F(ServerHttp, RequestsThatCannotBeAreToldWhy) {
  start([](const HttpRequest&, const ResponderPtr& out) { out->reply({}); }, {.body_bytes = 100});
  EXPECT_EQ(answers(talk("GET / HTTP/2.0\r\n\r\n"), "505"), 1);
  EXPECT_EQ(answers(talk("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"), "400"), 1);
  EXPECT_EQ(answers(talk("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n"), "413"),
            1);
  EXPECT_EQ(answers(talk("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-CONTINUE\r\nContent-Length: 3\r\n\r\nabc"), "200"),
            1);
  EXPECT_EQ(talk(""), "");
}

TEST_F(ServerHttp, AClientThatStallsIsToldThatItIsTooLate) {
  start([](const HttpRequest&, const ResponderPtr& out) { out->reply({}); },
        {.header_timeout = 200ms, .body_timeout = 300ms, .idle_timeout = 20s});
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  for (const std::string& begun :
       {std::string("P"), post, post + "Content-Length: 9\r\n\r\n", post + "Content-Length: 9\r\n\r\nabc",
        post + "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
        post + "Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"}) {
    const auto begin = steady_clock::now();
    Client client(server_->port(), begun);
    EXPECT_EQ(answers(client.read_all(), "408"), 1) << begun;
    EXPECT_LT(steady_clock::now() - begin, 10s) << begun;
  }
  // One that sends a little again and again gains no time by it.
  Client client(server_->port(), post + "Content-Length: 1000000\r\n\r\n");
  std::atomic<bool> has_ended = false;
  std::thread sender([&] {
    for (int i = 0; i < 5000 && !has_ended; ++i, std::this_thread::sleep_for(1ms)) client.try_to_send("a");
  });
  EXPECT_EQ(answers(client.read_until("408"), "408"), 1);
  has_ended = true;
  sender.join();
  EXPECT_EQ(answers(talk(kGet), "200"), 1);
}

TEST_F(ServerHttp, ConnectionsAreKeptAsAsked) {
  start([](const HttpRequest&, const ResponderPtr& out) { out->reply({}); });
  const auto kept = [this](const std::string& fields, const char* version = "1.1") {
    const std::string request = "GET / HTTP/" + std::string(version) + "\r\nHost: a\r\n" + fields + "\r\n";
    return answers(talk(request + request), "200") == 2;
  };
  EXPECT_TRUE(kept(""));
  EXPECT_FALSE(kept("Connection: Close\r\n"));
  EXPECT_FALSE(kept("Connection: x\r\nConnection: y, CLOSE\r\n"));
  EXPECT_FALSE(kept("", "1.0"));
  EXPECT_TRUE(kept("Connection: Keep-Alive\r\n", "1.0"));
}

}  // namespace
}  // namespace nostos::server
