// Tests how processes of one host divide its CPUs and the quotas of their control groups.
#include "apps/cli/cpu_share.h"

#include <gtest/gtest.h>

#include <vector>

namespace nostos::cli {
namespace {

/// \param first, count the CPUs that the process may run on
CpuReport report(char host, int first, int count, const std::vector<CpuReport::Quota>& quotas = {}) {
  CpuReport made;
  made.process.host[0] = host;
  for (int cpu = first; cpu < first + count; ++cpu) CPU_SET(cpu, &made.cpus);
  for (size_t i = 0; i < quotas.size(); ++i) made.quotas[i] = quotas[i];
  return made;
}

std::vector<int> threads(const std::vector<CpuReport>& all) {
  std::vector<int> each;
  for (size_t self = 0; self < all.size(); ++self) each.push_back(share_of_cpus(all, self).threads);
  return each;
}

using Counts = std::vector<int>;

TEST(CpuShare, ProcessesDivideTheCpusThatTheyMayRunOnTogether) {
  EXPECT_EQ(threads({report('a', 0, 8)}), Counts{8});
  EXPECT_EQ(threads({report('a', 0, 8), report('a', 0, 8), report('a', 0, 8)}), (Counts{2, 2, 2}));
  EXPECT_EQ(threads({report('a', 0, 4), report('a', 4, 2)}), (Counts{4, 2}));
  EXPECT_EQ(threads({report('a', 0, 8), report('b', 0, 8)}), (Counts{8, 8}));
  EXPECT_EQ(threads({report('a', 0, 1), report('a', 0, 1)}), (Counts{1, 1}));
}

TEST(CpuShare, AQuotaIsRoundedDown) {
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 2.9}})}), Counts{2});
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 0.4}})}), Counts{1});
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 64}})}), Counts{8});
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 6}, {3, 2}})}), Counts{2});
}

TEST(CpuShare, ProcessesOfOneGroupDivideItsQuota) {
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 4}}), report('a', 0, 8, {{7, 4}})}), (Counts{2, 2}));
  EXPECT_EQ(threads({report('a', 0, 8, {{7, 3}}), report('b', 0, 8, {{7, 3}})}), (Counts{3, 3}));
  EXPECT_EQ(threads({report('a', 0, 4, {{7, 3}}), report('a', 4, 4, {{8, 3}})}), (Counts{3, 3}));
  // Groups with 3 CPUs each in one with 4.
  EXPECT_EQ(threads({report('a', 0, 4, {{7, 3}, {1, 4}}), report('a', 4, 4, {{8, 3}, {1, 4}})}), (Counts{2, 2}));
}

TEST(CpuShare, SaysWhatLimits) {
  const std::vector<CpuReport> all{report('a', 0, 8, {{7, 9}, {1, 4}}), report('a', 8, 2, {{8, 9}, {1, 4}})};
  const CpuShare limited = share_of_cpus(all, 0);
  EXPECT_EQ(limited.quota, 1u);
  EXPECT_EQ(limited.cpus, 8);
  EXPECT_EQ(limited.quota_sharers, 2);
  EXPECT_EQ(share_of_cpus(all, 1).quota, std::nullopt);
}

TEST(CpuShare, AProcessThatKnowsNothingHasAThread) {
  EXPECT_GE(share_of_cpus(std::vector(1, CpuReport{}), 0).threads, 1);
}

TEST(CpuShare, ThisProcessMayUseACpu) {
  const CpuReport own = this_process_cpus(std::vector<CpuQuota>{{"/nonexistent", 2}, {"/proc", 3}});
  EXPECT_GE(CPU_COUNT(&own.cpus), 1);
  EXPECT_NE(own.process.pid, 0);
  EXPECT_EQ(own.quotas[0].cpus, 2);
  EXPECT_NE(own.quotas[0].group, 0u);
  EXPECT_NE(own.quotas[0].group, own.quotas[1].group);
  EXPECT_EQ(own.quotas[2].group, 0u);
}

}  // namespace
}  // namespace nostos::cli
