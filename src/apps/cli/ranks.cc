// Implements the run as one of several processes.
#include "apps/cli/ranks.h"

#include <vector>

#include "apps/cli/config_file.h"
#include "apps/cli/cpu_share.h"
#include "apps/cli/error_report.h"
#include "base/cpu_quota.h"
#include "base/error.h"
#include "base/log.h"
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

Processes::Place Processes::place_on_host() const {
  if (communicator_ == nullptr) return {};
  const ProcessIdentity own = this_process();
  Place place{0, 0};
  const std::vector<ProcessIdentity> all = communicator_->gather(own);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].host != own.host) continue;
    ++place.world;
    if (rank < static_cast<size_t>(communicator_->rank())) ++place.rank;
  }
  return place;
}

bool Processes::all_have(bool own) const {
  if (communicator_ == nullptr) return own;
  int64_t having = own ? 1 : 0;
  communicator_->all_reduce_sum(std::span(&having, 1));
  return having == communicator_->world();
}

int Processes::threads(int64_t asked) const {
  const std::vector<CpuQuota> quotas = cpu_quotas();
  const CpuReport own = this_process_cpus(quotas);
  const std::vector<CpuReport> all = communicator_ == nullptr ? std::vector{own} : communicator_->gather(own);
  if (asked > 0) return static_cast<int>(asked);
  const CpuShare share = share_of_cpus(all, communicator_ == nullptr ? 0 : static_cast<size_t>(communicator_->rank()));
  if (share.quota) {
    const CpuQuota& quota = quotas[*share.quota];
    log_info("CPU threads: {} of {}, for {} allows {:.4g} CPUs{}", share.threads, share.cpus, quota.file, quota.cpus,
             share.quota_sharers == 1 ? "" : fmt::format(" to {} processes", share.quota_sharers));
  }
  return share.threads;
}

void Processes::require_same_device(const std::string& own) const {
  const std::string of_root = from_root([&own] { return own; });
  require(
      own == of_root, ErrorKind::device,
      "this process draws on a GPU ({}) that is another one than rank 0's ({}): the picture would depend on which of "
      "them computes what; choose hosts or GPUs that are equal",
      own, of_root);
}

void Processes::require_same_precision(const std::string& own) const {
  const std::string of_root = from_root([&own] { return own; });
  require(own == of_root, ErrorKind::device,
          "this machine's CPU computes in {} and that of rank 0 in {}: give --precision f32", own, of_root);
}

void run_processes(CLI::App& command, const CommonFlags& common, const EngineFlags& engine,
                   const std::function<void(const Processes&)>& body) {
  if (!find_launcher()) {
    apply_common_flags(command, common);
    return body(Processes(nullptr));
  }
  MpiOptions options;
  const auto run = [&](Communicator& communicator) {
    const Processes processes(&communicator);
    apply_common_flags(command, common, [&processes](const std::string& file) {
      return processes.from_root([&file] { return read_config_file(file); });
    });
    options.timeout_s = engine.comm_timeout_s;
    if (!processes.is_root() && log_enabled(LogLevel::warning) && !log_enabled(LogLevel::debug))
      set_log_level(LogLevel::error);
    body(processes);
  };
  run_mpi_rank(run, report_error, options);
}

}  // namespace nostos::cli
