// Owns which files of a repository nostos reads.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hub/hub_answers.h"

namespace nostos {

/// What a user says of the files to have.
struct FileWish {
  std::vector<std::string> patterns{};  ///< shell patterns of paths or names; none: what the repository holds decides
  std::string variant{};                ///< of weights, as WeightStore::open() takes it
};

struct WantedFiles {
  std::vector<HubFile> files;
  bool is_folder = false;  ///< whether the snapshot is a model or a part as --model-path and the like take it
};

/// \return of a pipeline's folder (with model_index.json), or of a part's (with config.json), the configs, the
/// tokenizer and the one set of weights that nostos reads; of any other repository its only file of weights; with
/// patterns all files that match one.
/// \param name of the model, for messages
/// \param read gives the text of a file, e.g. of an index that says which shards there are
/// \throws Error invalid_input if there are several files of weights (listing them), or a pattern matches none; model
/// if there is nothing that nostos reads
WantedFiles wanted_files(const std::string& name, std::span<const HubFile> all, const FileWish& wish,
                         const std::function<std::string(const HubFile&)>& read);

}  // namespace nostos
