// Implements the watch over peers with Linux process file descriptors.
#include "parallel/peer_watch.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

namespace nostos {

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

PeerWatch::PeerWatch(std::span<const ProcessIdentity> processes, int self) : handles_(processes.size(), -1) {
  for (size_t rank = 0; rank < processes.size(); ++rank) {
    if (static_cast<int>(rank) != self && processes[rank].host == processes[self].host)
      handles_[rank] = static_cast<int>(syscall(SYS_pidfd_open, processes[rank].pid, 0));
  }
}

PeerWatch::~PeerWatch() {
  for (const int handle : handles_)
    if (handle >= 0) close(handle);
}

std::optional<int> PeerWatch::find_ended() const {
  std::vector<pollfd> polls;
  for (const int handle : handles_) polls.push_back({handle, POLLIN, 0});  // negative ones are skipped
  if (poll(polls.data(), polls.size(), 0) <= 0) return std::nullopt;
  const auto ended = std::find_if(polls.begin(), polls.end(), [](const pollfd& each) { return each.revents != 0; });
  return ended == polls.end() ? std::nullopt : std::optional(static_cast<int>(ended - polls.begin()));
}

bool PeerWatch::has_ended(int rank) const {
  pollfd each{handles_[rank], POLLIN, 0};
  return poll(&each, 1, 0) > 0 && each.revents != 0;
}

}  // namespace nostos
