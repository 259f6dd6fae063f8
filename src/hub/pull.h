// Owns bringing a model from a Hugging Face hub into the local cache. `nostos pull` calls it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/hub_place.h"
#include "hub/wanted_files.h"
#include "io/model_folder.h"

namespace nostos {

struct PullOptions {
  ModelName model;
  FileWish wish{};
  HubPlace place{};
  std::filesystem::path cache{};           ///< see hugging_face_cache()
  int connections = 4;                     ///< files that are fetched at once
  std::function<bool()> is_interrupted{};  ///< asked often, by any thread; not empty
};

/// What is about to be fetched.
struct PullPlan {
  std::string commit;
  size_t files = 0;
  uint64_t bytes = 0;    ///< of all files
  uint64_t missing = 0;  ///< of them
};

/// What a caller is told, by its own thread.
struct PullProgress {
  std::function<void(const PullPlan& plan)> on_plan;
  /// \param done of `total` bytes, several times a second
  std::function<void(uint64_t done, uint64_t total)> on_bytes;
};

struct PulledModel {
  std::filesystem::path snapshot;
  std::vector<std::filesystem::path> files;  ///< where the snapshot is no model's folder: those with weights, else all
};

/// Fetches what is missing of a model's files, several at once, and makes the snapshot. After a failure, or a kill, the
/// next call goes on where this one ended; a snapshot appears when all of its files are there. Several processes may
/// pull at once.
/// \throws Error as Hub, ModelCache and wanted_files(); cancelled if it is interrupted
PulledModel pull_model(const PullOptions& options, const PullProgress& progress);

}  // namespace nostos
