// Fuzzes what the program reads of its surroundings at the start: the control groups' files, and the launcher's
// variables.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu_quota.h"
#include "base/error.h"
#include "base/terminal.h"
#include "parallel/launcher.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nostos;
  // Texts that NUL bytes part: group, mounts, quota, period; the last is every variable's.
  std::vector<std::string> texts(1);
  for (const char c : std::string_view(reinterpret_cast<const char*>(data), size))
    c == '\0' ? static_cast<void>(texts.emplace_back()) : texts.back().push_back(c);
  texts.resize(5);
  size_t files = 0;
  const std::vector<CpuQuota> quotas = cpu_quotas([&](const std::string& path) -> std::optional<std::string> {
    check(++files < 2 * size + 100, "groups are looked at once");
    if (path == "/proc/self/cgroup") return texts[0];
    if (path == "/proc/self/mountinfo") return texts[1];
    return path.ends_with("cpu.cfs_period_us") ? texts[3] : texts[2];
  });
  for (const CpuQuota& quota : quotas) check(quota.cpus > 0 && whole_cpus(quota.cpus) >= 1, "a quota is positive");
  const auto variable = [&](const char*) { return texts[4].c_str(); };
  wants_colours(variable);
  try {
    const std::optional<Launcher> launcher = find_launcher(variable);
    check(!launcher || launcher->world >= 1, "a launcher has ranks");
  } catch (const Error& error) {
    check(error.kind() == ErrorKind::invalid_input, "a bad variable is bad input");
  }
  return 0;
}
