// Implements the run as one of several processes.
#include "apps/cli/ranks.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "apps/cli/error_report.h"
#include "parallel/launcher.h"
#include "parallel/mpi_communicator.h"
#include "parallel/peer_watch.h"

namespace nostos::cli {

std::string Processes::from_root(const std::function<std::string()>& make) const {
  if (communicator_ == nullptr) return make();
  std::string text;
  if (is_root()) text = make();
  int64_t size = static_cast<int64_t>(text.size());
  communicator_->broadcast(host_bytes(std::span<int64_t>(&size, 1)), 0).wait();
  text.resize(static_cast<size_t>(size));
  if (size > 0) communicator_->broadcast(host_bytes(std::span<char>(text)), 0).wait();
  return text;
}

int Processes::default_threads() const {
  if (communicator_ == nullptr) return 0;
  // Collective: every process comes here.
  std::vector<ProcessIdentity> all(static_cast<size_t>(communicator_->world()));
  const ProcessIdentity own = this_process();
  std::vector<Part> parts;
  for (size_t rank = 0; rank < all.size(); ++rank) parts.push_back({rank * sizeof own, sizeof own});
  communicator_->all_gather(host_bytes(std::span<const ProcessIdentity>(&own, 1)), host_bytes(std::span(all)), parts)
      .wait();
  const auto here = std::ranges::count_if(all, [&](const ProcessIdentity& peer) { return peer.host == own.host; });
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const bool bound = sched_getaffinity(0, sizeof allowed, &allowed) == 0 &&
                     CPU_COUNT(&allowed) < static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (bound || here == 1) return 0;
  return std::max(1, static_cast<int>(CPU_COUNT(&allowed) / here));
}

void run_processes(const EngineFlags& flags, const std::function<void(const Processes&)>& body) {
  if (!find_launcher()) return body(Processes(nullptr));
  MpiOptions options;
  options.timeout_s = flags.comm_timeout_s;
  run_mpi_rank([&](Communicator& processes) { body(Processes(&processes)); }, report_error, options);
}

}  // namespace nostos::cli
