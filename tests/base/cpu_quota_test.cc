// Tests the look for CPU quotas, on files as kernels and containers have them.
#include "base/cpu_quota.h"

#include <gtest/gtest.h>

#include <map>

namespace nostos {
namespace {

using Files = std::map<std::string, std::string>;

std::vector<CpuQuota> quotas(const Files& files) {
  return cpu_quotas([&files](const std::string& path) -> std::optional<std::string> {
    const auto found = files.find(path);
    return found == files.end() ? std::nullopt : std::optional(found->second);
  });
}

using Quotas = std::vector<CpuQuota>;

const std::string kV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

Files v2(const std::string& group, const Files& groups, const std::string& mounts = kV2) {
  Files files = groups;
  files["/proc/self/cgroup"] = "0::" + group + "\n";
  files["/proc/self/mountinfo"] = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts;
  return files;
}

TEST(CpuQuota, IsThatOfEachGroupUpToTheRoot) {
  EXPECT_EQ(quotas(v2("/a.slice/b.service", {{"/sys/fs/cgroup/a.slice/b.service/cpu.max", "150000 100000\n"},
                                             {"/sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"},
                                             {"/sys/fs/cgroup/cpu.max", "400000 50000\n"},
                                             {"/sys/fs/cgroup/other/cpu.max", "1 100000\n"}})),
            (Quotas{{"/sys/fs/cgroup/a.slice/b.service/cpu.max", 1.5}, {"/sys/fs/cgroup/cpu.max", 8}}));
  EXPECT_EQ(quotas(v2("/a.slice", {{"/sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"}})), Quotas{});
}

// A container with a namespace of its own sees its group as the root.
TEST(CpuQuota, InANamespaceIsThatOfTheMountPoint) {
  EXPECT_EQ(quotas(v2("/", {{"/sys/fs/cgroup/cpu.max", "50000 100000\n"}})), (Quotas{{"/sys/fs/cgroup/cpu.max", 0.5}}));
  // The mount is from outside of the namespace, or the group is: only the mount point is there to be looked at.
  EXPECT_EQ(quotas(v2("/", {{"/sys/fs/cgroup/cpu.max", "50000 100000\n"}},
                      "30 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")),
            (Quotas{{"/sys/fs/cgroup/cpu.max", 0.5}}));
  EXPECT_EQ(quotas(v2("/../x", {{"/sys/fs/cgroup/cpu.max", "50000 100000\n"},
                                {"/sys/fs/cgroup/../x/cpu.max", "10000 100000\n"}})),
            (Quotas{{"/sys/fs/cgroup/cpu.max", 0.5}}));
}

// A container in the host's namespace has its own group mounted, or sees all groups.
TEST(CpuQuota, IsLookedForBelowTheRootOfTheMount) {
  EXPECT_EQ(
      quotas(v2("/docker/abc/task",
                {{"/sys/fs/cgroup/task/cpu.max", "200000 100000\n"}, {"/sys/fs/cgroup/cpu.max", "300000 100000\n"}},
                "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n")),
      (Quotas{{"/sys/fs/cgroup/task/cpu.max", 2}, {"/sys/fs/cgroup/cpu.max", 3}}));
  // /docker/abcdef is not in /docker/abc; of two mounts the one that has it counts.
  EXPECT_EQ(quotas(v2("/docker/abcdef",
                      {{"/one/def/cpu.max", "1000 100000\n"},
                       {"/one/cpu.max", "1000 100000\n"},
                       {"/two/docker/abcdef/cpu.max", "700000 100000\n"}},
                      "30 23 0:26 /docker/abc /one rw - cgroup2 none rw\n31 23 0:26 / /two rw - cgroup2 none rw\n")),
            (Quotas{{"/two/docker/abcdef/cpu.max", 7}}));
}

TEST(CpuQuota, OfVersionOneIsThatOfTheCpuController) {
  const Files files{
      {"/proc/self/cgroup", "5:cpuset:/c\n4:cpu,cpuacct:/docker/abc\n3:cpuacct:/x\n1:name=systemd:/s\n0::/\n"},
      {"/proc/self/mountinfo",
       "40 30 0:30 /docker/abc /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n"
       "41 30 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,relatime master:11 - cgroup cgroup rw,cpu,cpuacct\n"
       "42 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"},
      {"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"},
      {"/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "1000\n"},
      {"/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"}};
  EXPECT_EQ(quotas(files), (Quotas{{"/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 2.5}}));
  Files unlimited = files;
  unlimited["/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"] = "-1\n";
  EXPECT_EQ(quotas(unlimited), Quotas{});
}

TEST(CpuQuota, PathsMayHoldSpacesAndColons) {
  EXPECT_EQ(quotas(v2("/a:b c", {{"/my groups\\/a:b c/cpu.max", "300000 100000\n"}},
                      "30 23 0:26 / /my\\040groups\\134 rw - cgroup2 cgroup2 rw\n")),
            (Quotas{{"/my groups\\/a:b c/cpu.max", 3}}));
}

TEST(CpuQuota, IsNoneWhereFilesAreMissingOrMakeNoSense) {
  EXPECT_EQ(quotas({}), Quotas{});
  EXPECT_EQ(quotas(v2("/", {}, "")), Quotas{});
  EXPECT_EQ(
      quotas({{"/proc/self/cgroup", "0:\n\n::\nx"}, {"/proc/self/mountinfo", " - cgroup2\n1 2 3 4 5 - \n" + kV2}}),
      Quotas{});
  for (const char* text : {"", "\n", "100000", "x 100000", "1e5 100000", "0 100000", "-5 100000", "100000 0",
                           "100000 -1", "99999999999999999999 100000", "max"}) {
    EXPECT_EQ(quotas(v2("/", {{"/sys/fs/cgroup/cpu.max", text}})), Quotas{}) << text;
  }
}

TEST(CpuQuota, OfThisMachineCanBeRead) {
  for (const CpuQuota& quota : cpu_quotas()) EXPECT_GT(quota.cpus, 0) << quota.file;
}

TEST(WholeCpus, RoundDownToOneAtLeast) {
  EXPECT_EQ(whole_cpus(0.1), 1);
  EXPECT_EQ(whole_cpus(1.99), 1);
  EXPECT_EQ(whole_cpus(2), 2);
  EXPECT_EQ(whole_cpus(1e300), 2147483647);
}

}  // namespace
}  // namespace nostos
