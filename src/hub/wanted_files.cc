// Implements the choice of files.
#include "hub/wanted_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "io/json_config.h"
#include "io/weight_store.h"
#include "text/tokenizer_files.h"

namespace nostos {
namespace {

constexpr std::string_view kPartFolders[] = {"transformer", "text_encoder", "vae", "controlnet"};

/// A choice in progress.
class Choice {
 public:
  Choice(const std::string& name, std::span<const HubFile> all, const FileWish& wish,
         const std::function<std::string(const HubFile&)>& read)
      : name_(name), wish_(wish), read_(read) {
    for (const HubFile& file : all) files_.emplace(file.path, &file);
  }

  bool has(const std::string& path) const { return files_.contains(path); }

  /// Takes a file if it is there.
  void take(const std::string& path) {
    if (has(path)) taken_.insert(path);
  }

  void take_tokenizer(const std::string& folder) {
    for (const std::string_view file : kTokenizerFiles) take(folder + std::string(file));
  }

  /// \return the names of the files right in a folder. \param folder "" or ending in "/"
  std::vector<std::string> names_in(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& [path, file] : files_) {
      const std::string name = path.starts_with(folder) ? path.substr(folder.size()) : "";
      if (!name.empty() && name.find('/') == std::string::npos) names.push_back(name);
    }
    return names;
  }

  /// Takes the config and the weights of a part. \throws Error model if the folder has no weights
  void take_part(const std::string& folder) {
    take(folder + "config.json");
    std::string problem;
    for (const WeightFile& file : weight_files(name_ + "/" + folder, names_in(folder), wish_.variant)) {
      has_variant_ = has_variant_ || file.variant == wish_.variant;
      problem = take_weights(folder, file);
      if (problem.empty()) return;
    }
    fail(ErrorKind::model, "'{}': {}", name_, problem);
  }

  void require_variant() const {
    require(wish_.variant.empty() || has_variant_, ErrorKind::model, "no part of '{}' has weights of the variant '{}'",
            name_, wish_.variant);
  }

  /// Takes what matches. \throws Error invalid_input if nothing does
  void take_matches(const std::string& pattern) {
    const size_t before = matches_;
    for (const auto& [path, file] : files_) {
      const std::string base = path.substr(path.rfind('/') + 1);
      if (::fnmatch(pattern.c_str(), path.c_str(), 0) != 0 && ::fnmatch(pattern.c_str(), base.c_str(), 0) != 0)
        continue;
      ++matches_;
      taken_.insert(path);
    }
    require(matches_ > before, ErrorKind::invalid_input, "--file '{}' matches no file of '{}': there are {}", pattern,
            name_, listed([](const std::string&) { return true; }));
  }

  void take_only_weights() {
    const auto is_weights = [](const std::string& path) {
      return path.ends_with(".safetensors") || path.ends_with(".gguf");
    };
    std::vector<std::string> weights;
    for (const auto& [path, file] : files_)
      if (is_weights(path)) weights.push_back(path);
    require(!weights.empty(), ErrorKind::model, "'{}' holds no model_index.json, .safetensors or .gguf: there are {}",
            name_, listed([](const std::string&) { return true; }));
    require(weights.size() == 1, ErrorKind::invalid_input,
            "'{}' holds several files of weights: choose some with --file: {}", name_, listed(is_weights));
    taken_.insert(weights.front());
  }

  std::vector<HubFile> taken() const {
    std::vector<HubFile> files;
    for (const std::string& path : taken_) files.push_back(*files_.at(path));
    return files;
  }

 private:
  /// \return what is missing, "" if nothing is.
  std::string take_weights(const std::string& folder, const WeightFile& file) {
    if (!file.is_index) {
      take(folder + file.name);
      return "";
    }
    std::set<std::string> shards;
    const std::string path = folder + file.name;
    for (const auto& [tensor, shard] : read_weight_map(JsonConfig::parse(read_(*files_.at(path)), path))) {
      if (!has(folder + shard)) return fmt::format("{} names {}, which is not there", path, shard);
      shards.insert(folder + shard);
    }
    take(path);
    taken_.insert(shards.begin(), shards.end());
    return "";
  }

  /// \return the files, with their sizes, of which `is_shown` says so.
  std::string listed(const std::function<bool(const std::string&)>& is_shown) const {
    constexpr size_t kMost = 40;
    std::vector<std::string> names;
    for (const auto& [path, file] : files_)
      if (is_shown(path)) names.push_back(fmt::format("{} ({:.1f} MB)", path, static_cast<double>(file->bytes) / 1e6));
    return names.empty() ? "none" : join_some(names, kMost);
  }

  std::string name_;
  const FileWish& wish_;
  const std::function<std::string(const HubFile&)>& read_;
  std::map<std::string, const HubFile*> files_;
  std::set<std::string> taken_;
  size_t matches_ = 0;
  bool has_variant_ = false;
};

}  // namespace

WantedFiles wanted_files(const std::string& name, std::span<const HubFile> all, const FileWish& wish,
                         const std::function<std::string(const HubFile&)>& read) {
  Choice choice(name, all, wish, read);
  if (!wish.patterns.empty()) {
    for (const std::string& pattern : wish.patterns) choice.take_matches(pattern);
    return {choice.taken(), false};
  }
  if (choice.has("model_index.json")) {
    for (const char* file : {"model_index.json", "generation_config.json", "scheduler/scheduler_config.json"})
      choice.take(file);
    choice.take_tokenizer("tokenizer/");
    for (const std::string_view part : kPartFolders) {
      const std::string folder = std::string(part) + "/";
      if (!choice.names_in(folder).empty()) choice.take_part(folder);
    }
    choice.require_variant();
    return {choice.taken(), true};
  }
  if (choice.has("config.json") && std::ranges::any_of(choice.names_in(""), is_weight_file)) {
    choice.take_part("");
    choice.take_tokenizer("");
    choice.require_variant();
    return {choice.taken(), true};
  }
  choice.take_only_weights();
  return {choice.taken(), false};
}

}  // namespace nostos
