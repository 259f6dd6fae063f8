// Owns the question how much CPU time the control groups of this process allow it, as containers and services are
// limited.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace nostos {

/// The CPU time that one control group may use.
struct CpuQuota {
  std::string file;  ///< that says so
  double cpus = 0;   ///< seconds of CPU time for each second; above 0

  friend bool operator==(const CpuQuota&, const CpuQuota&) = default;
};

/// \return the text of a file, or nothing if it cannot be read.
using ReadText = std::function<std::optional<std::string>(const std::string& path)>;

/// \return the quotas of this process's control group and of those above it, as far as they are mounted: of version 2
/// (`cpu.max`) and of version 1 (`cpu.cfs_quota_us` and `cpu.cfs_period_us`). Where /proc/self/cgroup and
/// /proc/self/mountinfo do not say where the group is, that of the mount point.
/// Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/cgroups.rst, proc(5), cgroup_namespaces(7).
std::vector<CpuQuota> cpu_quotas(const ReadText& read);
/// The same from this machine's files.
std::vector<CpuQuota> cpu_quotas();

/// \return how many threads `cpus` CPUs keep busy: rounded down, for threads beyond a quota are all stopped once it is
/// used up, and at least 1.
int whole_cpus(double cpus);

}  // namespace nostos
