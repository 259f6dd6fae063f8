// Implements reading a hub's answers.
#include "hub/hub_answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/error.h"
#include "io/json_config.h"
#include "io/utf8.h"

namespace nostos {
namespace {

constexpr size_t kSha1Digits = 40, kSha256Digits = 64;
constexpr size_t kMostNameBytes = 255;  // of one name, as file systems have it
constexpr int64_t kMostFileBytes = int64_t{1} << 50;

bool is_hexadecimal(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// \return whether a name can only be that of a file or folder in the folder where it is put.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= kMostNameBytes && name != "." && name != ".." && is_one_line(name);
}

bool is_path(std::string_view path) {
  for (;;) {
    const size_t slash = std::min(path.find('/'), path.size());
    if (!is_plain_name(path.substr(0, slash))) return false;
    if (slash == path.size()) return true;
    path.remove_prefix(slash + 1);
  }
}

std::string digest_of(const JsonConfig& entry, size_t digits) {
  std::string digest = entry.string("oid");
  if (!is_hexadecimal(digest, digits)) entry.refuse("oid", fmt::format("must be {} hexadecimal digits", digits));
  return digest;
}

HubFile read_file_entry(const JsonConfig& entry) {
  HubFile file;
  file.path = entry.string("path");
  if (!is_path(file.path)) entry.refuse("path", "must be names with '/' between, none of them '.' or '..'");
  if (const std::optional<JsonConfig> large = entry.object("lfs")) {
    file.is_large = true;
    file.digest = digest_of(*large, kSha256Digits);
    file.bytes = static_cast<uint64_t>(large->integer("size", 0, kMostFileBytes));
  } else {
    file.digest = digest_of(entry, kSha1Digits);
    file.bytes = static_cast<uint64_t>(entry.integer("size", 0, kMostFileBytes));
  }
  return file;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(" \t") + 1);
}

}  // namespace

Digest HubFile::begin_digest() const {
  Digest begun(is_large ? DigestKind::sha256 : DigestKind::sha1);
  if (!is_large) {
    const std::string head = fmt::format("blob {}", bytes);
    begun.update({reinterpret_cast<const std::byte*>(head.c_str()), head.size() + 1});
  }
  return begun;
}

std::string parse_hub_commit(std::string_view text, const std::string& name) {
  const JsonConfig answer = JsonConfig::parse(text, name);
  std::string commit = answer.string("sha");
  if (!is_hexadecimal(commit, kSha1Digits)) answer.refuse("sha", "must be a commit, 40 hexadecimal digits");
  return commit;
}

std::vector<HubFile> parse_hub_listing(std::string_view text, const std::string& name) {
  std::vector<HubFile> files;
  std::set<std::string> paths;
  // The answer is a list, of which JsonConfig reads objects.
  const JsonConfig answer = JsonConfig::parse(fmt::format("{{\"files\":{}}}", text), name);
  for (const JsonConfig& entry : answer.objects("files")) {
    if (entry.string("type") != "file") continue;
    files.push_back(read_file_entry(entry));
    if (!paths.insert(files.back().path).second) entry.refuse("path", "is that of two files");
  }
  return files;
}

std::string parse_next_page(std::string_view link) {
  while (!link.empty()) {
    const size_t open = link.find('<'), close = link.find('>', std::min(open, link.size()));
    if (close == std::string_view::npos) return "";
    const std::string_view address = link.substr(open + 1, close - open - 1);
    link.remove_prefix(close + 1);
    const std::string_view parameters = link.substr(0, std::min(link.find('<'), link.size()));
    link.remove_prefix(parameters.size());
    if (parameters.find("rel=\"next\"") != std::string_view::npos) return std::string(address);
  }
  return "";
}

std::optional<int64_t> parse_retry_after(std::string_view value) {
  value = trimmed(value);
  int64_t seconds = 0;
  const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  const bool is_number = error == std::errc() && stop == value.data() + value.size() && seconds >= 0;
  return is_number ? std::optional(seconds) : std::nullopt;
}

}  // namespace nostos
