// Implements finding weights in one file or in shards.
#include "io/weight_store.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>
#include <system_error>

#include "base/error.h"
#include "io/unfinished.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// A checkpoint's stem and whether its library looks for an index before it looks for a single file.
struct Stem {
  std::string_view name;
  bool index_first;
};
constexpr size_t kNamedAtMost = 12;  // files written out in one message
constexpr std::array<Stem, 2> kStems{{{"diffusion_pytorch_model", true}, {"model", false}}};

/// One file that weights can be had from.
struct Candidate {
  WeightFile file;
  size_t order = 0;  ///< among those of the same variant, the first goes first
};

/// \return what the file is by its name, nothing if it is neither weights nor an index.
std::optional<Candidate> parse_name(const std::string& file) {
  for (size_t stem = 0; stem < kStems.size(); ++stem) {
    const std::string beginning = std::string(kStems[stem].name) + ".";
    if (!file.starts_with(beginning)) continue;
    std::vector<std::string> words{""};
    for (const char c : file.substr(beginning.size())) {
      if (c == '.')
        words.emplace_back();
      else
        words.back() += c;
    }
    const auto drop = [&](std::string_view word) {
      const auto found = std::find(words.begin(), words.end(), word);
      if (found == words.end()) return false;
      words.erase(found);
      return true;
    };
    const std::string last = words.back();
    if (!drop("safetensors")) return std::nullopt;
    const bool is_index = last == "json" && drop("json") && drop("index");
    if ((!is_index && last != "safetensors") || words.size() > 1) return std::nullopt;
    // "fp16-00001-of-00002" is a shard's, which an index names.
    if (words.size() == 1 && (words[0].empty() || words[0].find("-of-") != std::string::npos)) return std::nullopt;
    const bool goes_first = is_index == kStems[stem].index_first;
    return Candidate{{file, words.empty() ? "" : words[0], is_index}, 2 * stem + (goes_first ? 0 : 1)};
  }
  return std::nullopt;
}

/// \return the names of what is in the folder, sorted; links count, wherever they lead.
std::vector<std::string> names_in(const Path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error) fail(ErrorKind::model, "no weights in '{}': {}", folder.string(), why_unreadable(folder, error.value()));
  std::sort(names.begin(), names.end());
  return names;
}

/// \return the variant to take: what is asked for where it is there, else the plain weights, else the only variant.
std::string choose_variant(const Path& folder, const std::string& asked, const std::vector<Candidate>& candidates) {
  std::set<std::string> variants;
  for (const Candidate& candidate : candidates) variants.insert(candidate.file.variant);
  if (variants.contains(asked)) return asked;
  if (variants.contains("")) return "";
  require(asked.empty(), ErrorKind::model, "no weights of the variant '{}' in '{}': there are {}", asked,
          folder.string(), fmt::join(variants, ", "));
  require(variants.size() == 1, ErrorKind::model,
          "the weights in '{}' are there in the variants {} alone: choose one with --variant", folder.string(),
          fmt::join(variants, ", "));
  return *variants.begin();
}

/// \return why the candidate cannot be loaded as far as files are missing or its index is damaged, "" if it can.
std::string what_is_missing(const Path& folder, const WeightFile& file) {
  std::error_code error;
  if (!file.is_index)
    return std::filesystem::exists(folder / file.name, error) ? "" : why_not_there(folder / file.name);
  try {
    for (const auto& [tensor, shard] : read_weight_map(JsonConfig::load(folder / file.name))) {
      if (!std::filesystem::exists(folder / shard, error)) return shard + " is missing";
    }
  } catch (const Error& problem) {
    return problem.what();
  }
  return "";
}

}  // namespace

std::string join_some(std::span<const std::string> names, size_t most) {
  constexpr size_t kMostBytes = 2000;  // of a name, which may have megabytes, or of what is wrong with it
  std::vector<std::string> shown;
  for (const std::string& name : names.first(std::min(names.size(), most)))
    shown.push_back(name.size() <= kMostBytes ? name : name.substr(0, kMostBytes) + "...");
  return fmt::format("{}{}", fmt::join(shown, ", "),
                     names.size() > most ? fmt::format(" and {} more", names.size() - most) : "");
}

std::map<std::string, std::string> read_weight_map(const JsonConfig& index) {
  const std::optional<JsonConfig> map = index.object("weight_map");
  require(map.has_value(), ErrorKind::model, "{}: field 'weight_map' is missing, must say which file holds each tensor",
          index.name());
  std::map<std::string, std::string> shard_of;
  for (const std::string& name : map->fields()) {
    const std::string shard = map->string(name);
    require(shard.ends_with(".safetensors") && shard.find_first_of("/\\") == std::string::npos, ErrorKind::model,
            "{}: tensor '{}' is said to be in '{}', must be the name of a .safetensors file in the same folder",
            index.name(), name, shard);
    shard_of.emplace(name, shard);
  }
  return shard_of;
}

bool is_weight_file(const std::string& name) { return parse_name(name).has_value(); }

std::vector<WeightFile> weight_files(const Path& folder, std::span<const std::string> names,
                                     const std::string& variant) {
  std::vector<Candidate> candidates;
  for (const std::string& name : names) {
    if (std::optional<Candidate> candidate = parse_name(name)) candidates.push_back(std::move(*candidate));
  }
  if (candidates.empty()) {
    fail(ErrorKind::model,
         "no weights in '{}': looked for {}.safetensors and {}.safetensors, in one file or with .index.json; there is "
         "{}{}",
         folder.string(), kStems[0].name, kStems[1].name, names.empty() ? "nothing" : join_some(names, kNamedAtMost),
         partial_download(folder));
  }
  const std::string taken = choose_variant(folder, variant, candidates);
  std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.file.variant != taken; });
  std::ranges::sort(candidates, {}, &Candidate::order);
  std::vector<WeightFile> files;
  for (Candidate& candidate : candidates) files.push_back(std::move(candidate.file));
  return files;
}

WeightStore WeightStore::open(const Path& folder, const std::string& variant) {
  const std::vector<WeightFile> files = weight_files(folder, names_in(folder), variant);
  WeightStore store;
  store.path_ = folder;
  store.variant_ = files.front().variant;
  if (store.variant_ != variant) {
    store.notes_.push_back(fmt::format("{}: no {} weights, those {} are taken", folder.string(),
                                       variant.empty() ? "plain" : "'" + variant + "'",
                                       store.variant_.empty() ? "without a variant" : "of '" + store.variant_ + "'"));
  }
  const WeightFile* taken = &files.front();
  for (const WeightFile& other : files) {
    const std::string missing = what_is_missing(folder, other);
    if (!missing.empty()) {
      store.notes_.push_back(fmt::format("{}: {} cannot be used: {}", folder.string(), other.name, missing));
      continue;
    }
    taken = &other;
    break;
  }
  if (files.size() > 1)
    store.notes_.push_back(fmt::format("{}: several sets of weights, {} is taken", folder.string(), taken->name));
  if (taken->is_index) {
    store.add_shards(folder / taken->name);
  } else {
    store.add_file(folder / taken->name);
  }
  return store;
}

WeightStore WeightStore::open_file(const Path& file) {
  WeightStore store;
  store.path_ = file;
  store.add_file(file);
  return store;
}

void WeightStore::add_file(const Path& file) {
  files_.push_back(open_tensor_file(file));
  formats_.emplace_back(*files_.back());
  for (const auto& [name, info] : files_.back()->tensors()) entries_.emplace(name, files_.size() - 1);
}

void WeightStore::add_shards(const Path& index) {
  const std::map<std::string, std::string> shard_of = read_weight_map(JsonConfig::load(index));
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  for (const std::string& shard : shards) {
    const Path file = path_ / shard;
    std::error_code error;
    if (!std::filesystem::exists(file, error)) {
      const std::string reason = why_not_there(file);
      fail(ErrorKind::model, "'{}', named by {}, is missing: {}{}", file.string(), index.string(), reason,
           reason.find("incomplete") == std::string::npos ? " (is the download incomplete?)" : "");
    }
    files_.push_back(open_tensor_file(file));
    formats_.emplace_back(*files_.back());
    for (const auto& [name, info] : files_.back()->tensors()) {
      const auto named = shard_of.find(name);
      if (named != shard_of.end() && named->second == shard) entries_.emplace(name, files_.size() - 1);
    }
  }
  for (const auto& [name, shard] : shard_of) {
    require(entries_.contains(name), ErrorKind::model,
            "{}: tensor '{}' is said to be in '{}', but that file does not hold it", index.string(), name, shard);
  }
}

const TensorInfo* WeightStore::info(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &files_[found->second]->tensors().find(name)->second;
}

std::optional<ConstView> WeightStore::find(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  return files_[found->second]->tensor(name);
}

std::optional<std::span<const std::byte>> WeightStore::find_bytes(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  return files_[found->second]->bytes(name);
}

size_t WeightStore::file_of(std::string_view name) const {
  const auto found = entries_.find(name);
  check(found != entries_.end(), "a weight is there before its format is asked for");
  return found->second;
}

WeightFormat WeightStore::format(std::string_view name) const { return formats_[file_of(name)].of(name).format; }

std::vector<float> WeightStore::scales(std::string_view name) const {
  const LayerFormats& formats = formats_[file_of(name)];
  return formats.scales(formats.of(name));
}

const std::string* WeightStore::metadata(const std::string& name) const {
  for (const auto& file : files_)
    if (const auto found = file->metadata().find(name); found != file->metadata().end()) return &found->second;
  return nullptr;
}

std::string WeightStore::where(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? path_.string() : files_[found->second]->path().string();
}

std::vector<std::string> WeightStore::weights() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : entries_)
    if (!formats_[file].belonging().contains(name)) names.push_back(name);
  return names;
}

std::vector<std::pair<std::string, TensorInfo>> WeightStore::list() const {
  std::vector<std::pair<std::string, TensorInfo>> all;
  for (const auto& [name, file] : entries_) all.emplace_back(name, *info(name));
  return all;
}

void WeightStore::will_need(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) files_[found->second]->will_need(name);
}

void WeightStore::release(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) files_[found->second]->release(name);
}

std::shared_ptr<const WeightStore> WeightStores::open(const Path& place, const std::string& variant) {
  const bool is_file = std::filesystem::is_regular_file(place);
  std::shared_ptr<const WeightStore>& store = opened_[{place, is_file ? "" : variant}];
  if (!store)
    store = std::make_shared<const WeightStore>(is_file ? WeightStore::open_file(place)
                                                        : WeightStore::open(place, variant));
  return store;
}

}  // namespace nostos
