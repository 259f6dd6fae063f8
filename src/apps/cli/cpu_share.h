// Owns how processes of one host divide its CPUs: by the CPUs that each may run on, and by the quotas that they share.
#pragma once

#include <sched.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/cpu_quota.h"
#include "parallel/peer_watch.h"

namespace nostos::cli {

/// What one process says of the CPUs that it may use: plain bytes, to be exchanged between ranks.
struct CpuReport {
  struct Quota {
    uint64_t group = 0;  ///< names the control group on its host; 0: no more quotas
    double cpus = 0;     ///< see CpuQuota
  };
  ProcessIdentity process{};
  cpu_set_t cpus{};                ///< that it may run on; empty if it does not know
  std::array<Quota, 16> quotas{};  ///< in the order of cpu_quotas()
};

/// \return the report of the calling process, whose quotas these are.
CpuReport this_process_cpus(std::span<const CpuQuota> quotas);

/// A process's part of the CPUs of its host.
struct CpuShare {
  int threads = 1;
  int cpus = 1;                 ///< that it would have without quotas
  std::optional<size_t> quota;  ///< which of its quotas leaves it fewer
  int quota_sharers = 1;        ///< processes that this quota is for
};

/// \return the part of process `self` of `all`. Launchers bind processes apart, or not at all: those of one host that
/// may run on the same CPUs divide them, and those in a control group divide its quota, each rounded down, at least 1.
CpuShare share_of_cpus(std::span<const CpuReport> all, size_t self);

}  // namespace nostos::cli
