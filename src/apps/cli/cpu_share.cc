// Implements the division of CPUs between processes.
#include "apps/cli/cpu_share.h"

#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>

namespace nostos::cli {
namespace {

/// \return a number for the control group whose file this is, the same in all namespaces that show it by other paths.
uint64_t group_of(const std::string& file) {
  struct stat status {};
  const uint64_t number = stat(file.c_str(), &status) == 0 ? status.st_ino : std::hash<std::string>()(file);
  return std::max<uint64_t>(number, 1);
}

}  // namespace

CpuReport this_process_cpus(std::span<const CpuQuota> quotas) {
  CpuReport report{.process = this_process()};
  if (sched_getaffinity(0, sizeof report.cpus, &report.cpus) != 0) CPU_ZERO(&report.cpus);
  for (size_t i = 0; i < std::min(quotas.size(), report.quotas.size()); ++i)
    report.quotas[i] = {group_of(quotas[i].file), quotas[i].cpus};
  return report;
}

CpuShare share_of_cpus(std::span<const CpuReport> all, size_t self) {
  const CpuReport& own = all[self];
  const auto count_on_host = [&](const auto& shares) {
    return static_cast<int>(std::ranges::count_if(
        all, [&](const CpuReport& peer) { return peer.process.host == own.process.host && shares(peer); }));
  };
  const int known = CPU_COUNT(&own.cpus);
  const int cpus = known > 0 ? known : static_cast<int>(std::thread::hardware_concurrency());
  CpuShare share;
  share.cpus = cpus / count_on_host([&](const CpuReport& peer) { return CPU_EQUAL(&peer.cpus, &own.cpus); });
  share.cpus = share.threads = std::max(share.cpus, 1);
  for (size_t i = 0; i < own.quotas.size() && own.quotas[i].group != 0; ++i) {
    const CpuReport::Quota& quota = own.quotas[i];
    const int sharers = count_on_host([&](const CpuReport& peer) {
      return std::ranges::find(peer.quotas, quota.group, &CpuReport::Quota::group) != peer.quotas.end();
    });
    const int allowed = whole_cpus(quota.cpus / sharers);
    if (allowed >= share.threads) continue;
    share.threads = allowed;
    share.quota = i;
    share.quota_sharers = sharers;
  }
  return share;
}

}  // namespace nostos::cli
