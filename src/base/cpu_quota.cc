// Implements the look for quotas in control groups.
#include "base/cpu_quota.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <string_view>

namespace nostos {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool has(std::string_view list, std::string_view item, char separator = ',') {
  return std::ranges::count(split(list, separator), item) > 0;
}

/// A file system of control groups, as /proc/self/mountinfo has it.
struct Mount {
  std::string root;  ///< the group that stands at `point`
  std::string point;
  int version = 2;
};

/// \return a path of mountinfo, in which e.g. \040 stands for a space.
std::string unescaped(std::string_view text) {
  std::string path;
  for (size_t i = 0; i < text.size(); ++i) {
    int byte = 0;
    const char *const begin = text.data() + i + 1, *const end = text.data() + std::min(i + 4, text.size());
    if (text[i] == '\\' && std::from_chars(begin, end, byte, 8).ptr == begin + 3 && byte < 256) {
      path.push_back(static_cast<char>(byte));
      i += 3;
    } else {
      path.push_back(text[i]);
    }
  }
  return path;
}

/// \return the mounts that may hold CPU quotas.
std::vector<Mount> cgroup_mounts(std::string_view mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string_view line : split(mountinfo, '\n')) {
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const std::vector<std::string_view> place = split(line.substr(0, dash), ' '),
                                        what = split(line.substr(dash + 3), ' ');
    if (place.size() < 5 || what.empty()) continue;
    const bool is_v2 = what[0] == "cgroup2", is_v1 = what[0] == "cgroup" && what.size() > 2 && has(what[2], "cpu");
    if (is_v2 || is_v1) mounts.push_back({unescaped(place[3]), unescaped(place[4]), is_v2 ? 2 : 1});
  }
  return mounts;
}

/// \return where `group` is below a mount whose root is `root`: "" for the root itself, nothing where it is not below.
std::optional<std::string> below(std::string_view group, std::string_view root) {
  if (root == "/") root = "";
  if (group == "/") group = "";
  // A group outside of this process's namespace is told by ..
  if (!group.starts_with(root) || has(group, "..", '/')) return std::nullopt;
  const std::string_view rest = group.substr(root.size());
  return rest.empty() || rest.front() == '/' ? std::optional(std::string(rest)) : std::nullopt;
}

std::optional<int64_t> to_number(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && (end == text.data() + text.size() || *end == '\n');
  return whole ? std::optional(number) : std::nullopt;
}

/// \return the quota of the group in `folder`, if it has one.
std::optional<CpuQuota> quota_of(const ReadText& read, const std::string& folder, int version) {
  const std::string file = folder + (version == 2 ? "/cpu.max" : "/cpu.cfs_quota_us");
  const std::optional<std::string> text = read(file);
  if (!text) return std::nullopt;
  const std::vector<std::string_view> words = split(*text, ' ');
  std::optional<int64_t> quota = to_number(words[0]), period;  // `max` and -1: no limit
  if (version == 2) {
    if (words.size() > 1) period = to_number(words[1]);
  } else if (const std::optional<std::string> told = read(folder + "/cpu.cfs_period_us")) {
    period = to_number(*told);
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return CpuQuota{file, static_cast<double>(*quota) / static_cast<double>(*period)};
}

}  // namespace

std::vector<CpuQuota> cpu_quotas(const ReadText& read) {
  const std::string groups = read("/proc/self/cgroup").value_or("");
  const std::vector<Mount> mounts = cgroup_mounts(read("/proc/self/mountinfo").value_or(""));
  std::vector<CpuQuota> quotas;
  for (const std::string_view line : split(groups, '\n')) {
    // hierarchy:controllers:group, and the group may hold colons.
    const size_t first = line.find(':'), second = line.find(':', first == std::string_view::npos ? first : first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (!controllers.empty() && !has(controllers, "cpu")) continue;
    const int version = controllers.empty() ? 2 : 1;
    const auto holds = [&](const Mount& mount) { return mount.version == version && below(group, mount.root); };
    auto mount = std::ranges::find_if(mounts, holds);
    if (mount == mounts.end()) mount = std::ranges::find(mounts, version, &Mount::version);
    if (mount == mounts.end()) continue;
    std::string path = below(group, mount->root).value_or("");
    for (;;) {
      if (std::optional<CpuQuota> quota = quota_of(read, mount->point + path, version)) quotas.push_back(*quota);
      if (path.empty()) break;
      path.resize(path.rfind('/'));
    }
  }
  return quotas;
}

std::vector<CpuQuota> cpu_quotas() {
  return cpu_quotas([](const std::string& path) -> std::optional<std::string> {
    std::ifstream file(path);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    return file.bad() || !file.is_open() ? std::nullopt : std::optional(std::move(text));
  });
}

int whole_cpus(double cpus) {
  return static_cast<int>(std::clamp(std::floor(cpus), 1.0, static_cast<double>(std::numeric_limits<int>::max())));
}

}  // namespace nostos
