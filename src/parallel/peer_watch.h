// Owns handles to the processes of peers on this host, which tell at once when one has ended.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <vector>

namespace nostos {

/// Names a process among all hosts: plain bytes, to be exchanged between ranks.
struct ProcessIdentity {
  std::array<char, 128> host{};  ///< this boot of the kernel and its process namespace; zero padded
  int pid = 0;
};

/// \return the identity of the calling process.
ProcessIdentity this_process();

class PeerWatch {
 public:
  /// Watches all `processes` but number `self`. Those on other hosts, and all on kernels before 5.3, count as alive.
  PeerWatch(std::span<const ProcessIdentity> processes, int self);
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  /// \return the first process that has ended, if any. Takes microseconds.
  std::optional<int> find_ended() const;
  /// \return whether process `rank` has ended.
  bool has_ended(int rank) const;

 private:
  std::vector<int> handles_;  // one a process; -1 where it is not watched
};

}  // namespace nostos
