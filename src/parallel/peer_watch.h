// Owns a watch over the processes of the other ranks, which tells at once when one has ended.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <thread>
#include <vector>

namespace nostos {

/// Names a process among all hosts: plain bytes, to be exchanged between ranks.
struct ProcessIdentity {
  std::array<char, 128> host{};  ///< this boot of the kernel and its process namespace; zero padded
  int pid = 0;
};

/// \return the identity of the calling process.
ProcessIdentity this_process();

/// One end of a TCP connection: plain bytes, to be exchanged between ranks.
struct TcpEnd {
  std::array<uint8_t, 16> address{};  ///< IPv6, or IPv4 mapped into it
  uint16_t port = 0;                  ///< in the host's byte order

  friend bool operator==(const TcpEnd&, const TcpEnd&) = default;
};

struct TcpConnection {
  TcpEnd local{};
  TcpEnd remote{};
  int descriptor = -1;  ///< of the process that holds the local end
};

/// \return the established connections of this process, whoever made them.
std::vector<TcpConnection> tcp_connections();

/// Watches processes of this host through the kernel's handles of them (none before Linux 5.3), and those of other
/// hosts through connections that are there anyway and that only the end of the process closes.
class PeerWatch {
 public:
  PeerWatch(std::span<const ProcessIdentity> processes, int self);
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  /// Watches process `rank` through each of this process's connections `own` that is one of `theirs` seen from the
  /// other end. The watch has descriptors of its own for them: whoever made a connection may close it, and its number
  /// may come to be another's.
  void add_connections(int rank, std::span<const TcpConnection> own, std::span<const TcpConnection> theirs);

  /// Starts a thread that calls `on_end` once, with the first process that ends. Nothing is added from here on. Where
  /// the system refuses to watch, a warning says so.
  void start(std::function<void(int rank)> on_end);
  /// Ends that thread, once on_end has returned if it is under way, and lets go of all processes and connections.
  void stop();

  /// \return the first process that has ended, as soon as the thread knows.
  std::optional<int> first_ended() const;
  /// \return whether process `rank` has ended, as far as it is watched.
  bool has_ended(int rank) const;

 private:
  struct Handle {
    int rank;
    int descriptor;  ///< of this watch, of a process or a connection
    short events;    ///< by which its end shows
  };

  std::vector<Handle> handles_;
  std::array<int, 2> stop_pipe_{-1, -1};
  std::atomic<int> first_ended_{-1};
  std::thread thread_;
};

}  // namespace nostos
