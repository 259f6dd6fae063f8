// Implements the watch over peers with process file descriptors and the hang-ups of connections.
#include "parallel/peer_watch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace nostos {
namespace {

/// Readable: a process has ended. Hung up: a connection's other end is gone.
constexpr short kEndEvents = POLLIN;
constexpr short kHangUpEvents = POLLRDHUP;

std::optional<TcpEnd> tcp_end(const sockaddr_storage& address) {
  TcpEnd end;
  if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address, sizeof v6);
    std::memcpy(end.address.data(), &v6.sin6_addr, end.address.size());
    end.port = ntohs(v6.sin6_port);
  } else if (address.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address, sizeof v4);
    end.address[10] = end.address[11] = 0xff;
    std::memcpy(end.address.data() + 12, &v4.sin_addr, 4);
    end.port = ntohs(v4.sin_port);
  } else {
    return std::nullopt;
  }
  return end;
}

std::optional<TcpConnection> tcp_connection(int descriptor) {
  tcp_info info{};
  socklen_t info_bytes = sizeof info;
  if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &info_bytes) != 0 || info.tcpi_state != TCP_ESTABLISHED)
    return std::nullopt;
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return std::nullopt;
  const std::optional<TcpEnd> local = tcp_end(address);
  bytes = sizeof address;
  if (getpeername(descriptor, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return std::nullopt;
  const std::optional<TcpEnd> remote = tcp_end(address);
  if (!local || !remote) return std::nullopt;
  return TcpConnection{*local, *remote, descriptor};
}

}  // namespace

ProcessIdentity this_process() {
  std::string host;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> host;
  std::array<char, 64> name_space{};
  if (readlink("/proc/self/ns/pid", name_space.data(), name_space.size() - 1) > 0) host += name_space.data();
  ProcessIdentity identity;
  std::copy_n(host.begin(), std::min(host.size(), identity.host.size()), identity.host.begin());
  identity.pid = getpid();
  return identity;
}

std::vector<TcpConnection> tcp_connections() {
  std::vector<TcpConnection> connections;
  std::error_code ignored;  // without /proc there are none to be found
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const std::string number = entry.path().filename().string();
    int descriptor = -1;
    std::from_chars(number.data(), number.data() + number.size(), descriptor);
    if (const auto connection = tcp_connection(descriptor)) connections.push_back(*connection);
  }
  return connections;
}

PeerWatch::PeerWatch(std::span<const ProcessIdentity> processes, int self) {
  for (int rank = 0; rank < std::ssize(processes); ++rank) {
    if (rank == self || processes[rank].host != processes[self].host) continue;
    const auto descriptor = static_cast<int>(syscall(SYS_pidfd_open, processes[rank].pid, 0));
    if (descriptor >= 0) handles_.push_back({rank, descriptor, kEndEvents});
  }
}

PeerWatch::~PeerWatch() { stop(); }

void PeerWatch::add_connections(int rank, std::span<const TcpConnection> own, std::span<const TcpConnection> theirs) {
  for (const TcpConnection& each : own) {
    const bool shared = std::ranges::any_of(theirs, [&each](const TcpConnection& other) {
      return each.local == other.remote && each.remote == other.local;
    });
    const int descriptor = shared ? fcntl(each.descriptor, F_DUPFD_CLOEXEC, 0) : -1;
    if (descriptor >= 0) handles_.push_back({rank, descriptor, kHangUpEvents});
  }
}

void PeerWatch::start(std::function<void(int rank)> on_end) {
  if (pipe2(stop_pipe_.data(), O_CLOEXEC) != 0)
    fail(ErrorKind::internal, "cannot make a pipe: {}", std::strerror(errno));
  thread_ = std::thread([this, on_end = std::move(on_end)] {
    std::vector<pollfd> polls;
    for (const Handle& each : handles_) polls.push_back({each.descriptor, each.events, 0});
    polls.push_back({stop_pipe_[0], POLLIN, 0});
    while (poll(polls.data(), polls.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return log_warning("cannot watch the other ranks' processes, whose end is found later: {}", std::strerror(errno));
    }
    if (polls.back().revents != 0) return;
    const auto ended = std::find_if(polls.begin(), polls.end(), [](const pollfd& each) { return each.revents != 0; });
    first_ended_ = handles_[static_cast<size_t>(ended - polls.begin())].rank;
    on_end(first_ended_);
  });
}

void PeerWatch::stop() {
  if (thread_.joinable()) {
    close(stop_pipe_[1]);
    thread_.join();
    close(stop_pipe_[0]);
  }
  for (const Handle& handle : handles_) close(handle.descriptor);
  handles_.clear();
}

std::optional<int> PeerWatch::first_ended() const {
  const int rank = first_ended_;
  return rank < 0 ? std::nullopt : std::optional(rank);
}

bool PeerWatch::has_ended(int rank) const {
  return std::ranges::any_of(handles_, [rank](const Handle& each) {
    pollfd look{each.descriptor, each.events, 0};
    return each.rank == rank && poll(&look, 1, 0) > 0 && look.revents != 0;
  });
}

}  // namespace nostos
