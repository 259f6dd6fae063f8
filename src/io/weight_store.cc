// Implements finding weights in one file or in shards.
#include "io/weight_store.h"

#include <algorithm>
#include <array>
#include <set>
#include <system_error>

#include "base/error.h"
#include "io/json_config.h"

namespace nostos {
namespace {

constexpr std::array<const char*, 2> kStems{"diffusion_pytorch_model", "model"};

}  // namespace

WeightStore WeightStore::open(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::string looked_for;
  for (const char* stem : kStems) {
    for (const char* extension : {".safetensors", ".safetensors.index.json"}) {
      const std::string name = std::string(stem) + extension;
      looked_for += (looked_for.empty() ? "" : ", ") + name;
      std::error_code error;
      if (std::filesystem::exists(folder / name, error)) found.push_back(folder / name);
    }
  }
  require(!found.empty(), ErrorKind::model, "no weights in '{}': looked for {}", folder.string(), looked_for);
  require(found.size() == 1, ErrorKind::model, "two sets of weights in '{}', {} and {}: remove the one not meant",
          folder.string(), found.front().filename().string(), found.back().filename().string());
  WeightStore store(folder);
  if (found.front().extension() == ".json") {
    store.add_shards(found.front());
  } else {
    store.add_file(found.front());
  }
  return store;
}

void WeightStore::add_file(const std::filesystem::path& file) {
  files_.emplace_back(file);
  for (const auto& [name, info] : files_.back().tensors()) {
    const auto [entry, added] = entries_.try_emplace(name, Entry{files_.size() - 1});
    require(added, ErrorKind::model, "tensor '{}' is in two files: '{}' and '{}'", name,
            files_[entry->second.file].path().string(), file.string());
  }
}

void WeightStore::add_shards(const std::filesystem::path& index) {
  const JsonConfig config = JsonConfig::load(index);
  const std::optional<JsonConfig> map = config.object("weight_map");
  require(map.has_value(), ErrorKind::model, "{}: field 'weight_map' is missing, must say which file holds each tensor",
          index.string());
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const std::string& name : map->fields()) {
    const std::string shard = map->string(name);
    require(shard.ends_with(".safetensors") && shard.find_first_of("/\\") == std::string::npos, ErrorKind::model,
            "{}: tensor '{}' is said to be in '{}', must be the name of a .safetensors file in the same folder",
            index.string(), name, shard);
    shard_of.emplace(name, shard);
    shards.insert(shard);
  }
  for (const std::string& shard : shards) {
    std::error_code error;
    require(std::filesystem::is_regular_file(folder_ / shard, error), ErrorKind::model,
            "'{}' is missing, named by {} (is the download incomplete?)", (folder_ / shard).string(), index.string());
    add_file(folder_ / shard);
  }
  for (const auto& [name, shard] : shard_of) {
    require(entries_.contains(name) && where(name) == (folder_ / shard).string(), ErrorKind::model,
            "{}: tensor '{}' is said to be in '{}', but that file does not hold it", index.string(), name, shard);
  }
}

std::optional<ConstView> WeightStore::find(std::string_view name) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  found->second.used = true;
  return files_[found->second.file].tensor(name);
}

std::string WeightStore::where(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? folder_.string() : files_[found->second.file].path().string();
}

std::vector<std::string> WeightStore::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (!entry.used) names.push_back(name);
  }
  return names;
}

std::vector<std::pair<std::string, TensorInfo>> WeightStore::list() const {
  std::vector<std::pair<std::string, TensorInfo>> all;
  for (const auto& [name, entry] : entries_) all.emplace_back(name, files_[entry.file].tensors().find(name)->second);
  return all;
}

void WeightStore::will_need(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) files_[found->second.file].will_need(name);
}

void WeightStore::release(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found != entries_.end()) files_[found->second.file].release(name);
}

}  // namespace nostos
