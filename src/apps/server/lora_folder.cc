// Implements the folder of LoRAs.
#include "apps/server/lora_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <numeric>
#include <set>
#include <system_error>
#include <utility>

#include "apps/server/api_error.h"
#include "base/error.h"
#include "io/tensor_file.h"
#include "io/utf8.h"

namespace nostos::server {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 16;
constexpr int64_t kMaxEntries = 100'000;
constexpr size_t kComparedBytes = 100;  // of names, where near ones are looked for
constexpr size_t kNearNames = 3;
constexpr size_t kMaxMetadataBytes = 4096;  // of one value

bool is_within(const fs::path& path, const fs::path& folder) {
  return std::ranges::mismatch(folder, path).in1 == folder.end();
}

std::string lower(std::string_view text) {
  std::string made(text);
  std::ranges::transform(made, made.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return made;
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('/') + 1); }

/// \return how many letters must be put in, left out or changed to make one of the other (Levenshtein).
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

/// \return what to say of the names that there are, near ones first.
std::string advice(const std::string& wanted, const std::vector<LoraFile>& files) {
  if (files.empty()) return "its folder of LoRAs is empty";
  std::vector<std::pair<size_t, std::string>> near;
  const std::string name = lower(std::string_view(wanted).substr(0, kComparedBytes));
  for (const LoraFile& file : files) {
    const std::string known = lower(std::string_view(file.name).substr(0, kComparedBytes));
    const size_t letters = std::min(distance(name, known), distance(last_part(name), last_part(known)));
    if (letters <= std::max<size_t>(2, name.size() / 3)) near.emplace_back(letters, '"' + file.name + '"');
  }
  std::ranges::sort(near);
  near.resize(std::min(near.size(), kNearNames));
  std::vector<std::string> names;
  for (auto& [letters, known] : near) names.push_back(std::move(known));
  return fmt::format("{}GET /v1/loras lists all {}",
                     names.empty() ? "" : fmt::format("near it is {}; ", fmt::join(names, ", ")), files.size());
}

/// \return the message with names in the place of paths: where a server keeps its files is not its clients' business.
std::string without_folder(std::string message, const fs::path& folder) {
  const std::string prefix = folder.string() + "/";
  for (size_t at; (at = message.find(prefix)) != std::string::npos;) message.erase(at, prefix.size());
  return message;
}

/// \return `text` as messages show it.
std::string shown(const std::string& text) { return '"' + text.substr(0, kComparedBytes) + '"'; }

}  // namespace

LoraMetadata read_lora_metadata(const fs::path& file) {
  LoraMetadata made;
  try {
    const auto opened = open_tensor_file(file);
    for (const auto& [name, text] : opened->metadata())
      if (text.size() <= kMaxMetadataBytes) made[name] = text;
  } catch (const Error&) {
    return {};
  }
  return made;
}

LoraFolder::LoraFolder(const fs::path& folder, std::function<LoraFacts(const fs::path& file)> read,
                       std::function<LoraMetadata(const fs::path& file)> read_metadata)
    : folder_([&folder] {
        std::error_code error;
        fs::path found = fs::canonical(folder, error);
        require(!error && fs::is_directory(found, error), ErrorKind::invalid_input, "{} is no folder that can be read",
                folder.string());
        return found;
      }()),
      read_(std::move(read)),
      read_metadata_(std::move(read_metadata)) {
  list();
}

std::optional<LoraFile> LoraFolder::file_at(const fs::directory_entry& entry) const {
  std::error_code error;
  const fs::path& path = entry.path();
  if (path.extension() != ".safetensors" && path.extension() != ".gguf") return std::nullopt;
  if (!entry.is_regular_file(error) || error) return std::nullopt;
  if (entry.is_symlink(error) && (!is_within(fs::canonical(path, error), folder_) || error)) return std::nullopt;
  const auto bytes = entry.file_size(error);
  const std::string name = path.lexically_relative(folder_).generic_string();
  if (error || !is_one_line(name)) return std::nullopt;
  return LoraFile{name, path, bytes};
}

std::vector<LoraFile> LoraFolder::list() const {
  std::vector<LoraFile> files;
  std::multiset<std::string> names;
  const auto bare = [](const std::string& name) { return name.substr(0, name.rfind('.')); };
  std::error_code error;
  int64_t entries = 0;
  fs::recursive_directory_iterator at(folder_, fs::directory_options::skip_permission_denied, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    require(++entries <= kMaxEntries, ErrorKind::invalid_input, "{} is no folder of LoRAs: it holds over {} files",
            folder_.string(), kMaxEntries);
    const bool is_hidden = at->path().filename().native().starts_with('.');
    if (is_hidden || at.depth() >= kMaxDepth) at.disable_recursion_pending();
    if (is_hidden) continue;
    if (auto file = file_at(*at)) {
      names.insert(bare(file->name));
      files.push_back(std::move(*file));
    }
  }
  require(!error, ErrorKind::invalid_input, "the folder of LoRAs, {}, cannot be read: {}", folder_.string(),
          error.message());
  for (LoraFile& file : files)
    if (names.count(bare(file.name)) == 1) file.name = bare(file.name);
  std::ranges::sort(files, {}, &LoraFile::name);
  forget_others(files);
  return files;
}

LoraFolder::Known& LoraFolder::known_of(const fs::path& file, const FileVersion& version) const {
  Known& known = known_.try_emplace(file, Known{version}).first->second;
  if (known.version != version) known = {version};
  return known;
}

std::optional<LoraFacts> LoraFolder::known_facts(const LoraFile& file) const {
  std::error_code error;
  const FileVersion version = file_version(file.path, error);
  if (error) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return known_of(file.path, version).facts;
}

LoraMetadata LoraFolder::metadata(const LoraFile& file) const {
  std::error_code error;
  const FileVersion version = file_version(file.path, error);
  if (error) return {};
  {
    const std::lock_guard lock(mutex_);
    if (const auto& known = known_of(file.path, version).metadata) return *known;
  }
  LoraMetadata made = read_metadata_(file.path);
  const std::lock_guard lock(mutex_);
  return known_of(file.path, version).metadata.emplace(std::move(made));
}

LoraFacts LoraFolder::facts_of(const LoraFile& file, const std::string& field) {
  if (auto known = known_facts(file)) return *known;
  const std::lock_guard reading(reading_);
  if (auto known = known_facts(file)) return *known;  // another thread has read it meanwhile
  std::error_code error;
  const FileVersion version = file_version(file.path, error);
  if (error) refuse_field(field, "unknown_lora", "{} names {}, whose file has just gone", field, shown(file.name));
  LoraFacts facts;
  try {
    facts = read_(file.path);
  } catch (const Error& why) {
    if (why.kind() != ErrorKind::invalid_input) throw;
    facts.error = without_folder(why.what(), folder_);
  }
  const std::lock_guard lock(mutex_);
  return known_of(file.path, version).facts.emplace(std::move(facts));
}

void LoraFolder::forget_others(const std::vector<LoraFile>& files) const {
  std::set<fs::path> there;
  for (const LoraFile& file : files) there.insert(file.path);
  const std::lock_guard lock(mutex_);
  std::erase_if(known_, [&there](const auto& known) { return !there.contains(known.first); });
}

AdapterUse LoraFolder::find_one(const LoraWish& wish, const std::vector<LoraFile>& files) {
  std::vector<const LoraFile*> found;
  const auto look = [&](const auto& name_of) {
    if (!found.empty()) return;
    for (const LoraFile& file : files)
      if (name_of(file) == wish.name) found.push_back(&file);
  };
  look([](const LoraFile& file) { return file.name; });
  look([this](const LoraFile& file) { return file.path.lexically_relative(folder_).generic_string(); });
  look([](const LoraFile& file) { return file.alias(); });
  if (found.empty())
    refuse_field(wish.field, "unknown_lora", "{} names the LoRA {}, which this server has not: {}", wish.field,
                 shown(wish.name), advice(wish.name, files));
  if (found.size() > 1)
    refuse_field(wish.field, "ambiguous_lora", "{} names {}, which is \"{}\" as well as \"{}\"", wish.field,
                 shown(wish.name), found[0]->name, found[1]->name);
  const LoraFile& file = *found.front();
  const LoraFacts facts = facts_of(file, wish.field);
  if (!facts.error.empty())
    refuse_field(wish.field, "unfit_lora", "{}: the LoRA \"{}\" cannot be used: {}", wish.field, file.name,
                 facts.error);
  if (!wish.sha256.empty() && wish.sha256 != facts.sha256)
    refuse_field(wish.field, "changed_lora",
                 "{}: the LoRA \"{}\" is another file than was meant: its SHA-256 is {}, not {}; without sha256 this "
                 "one is taken",
                 wish.field, file.name, facts.sha256, shown(wish.sha256));
  return {.name = file.name, .file = file.path.string(), .sha256 = facts.sha256, .scale = wish.scale};
}

std::vector<AdapterUse> LoraFolder::find(const std::vector<LoraWish>& wishes) {
  const std::vector<LoraFile> files = list();
  std::vector<AdapterUse> uses;
  for (const LoraWish& wish : wishes) uses.push_back(find_one(wish, files));
  return uses;
}

}  // namespace nostos::server
