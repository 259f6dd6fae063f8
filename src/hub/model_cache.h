// Owns a model's folder in the Hugging Face cache as huggingface_hub writes it: blobs by their checksums, snapshots of
// links to them, references, and locks. io/model_folder.h reads it.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "hub/hub_answers.h"
#include "io/file.h"
#include "io/model_folder.h"

namespace nostos {

/// A model's folder, to be written to. Any number of processes may write to it at once. It can be used by any thread.
class ModelCache {
 public:
  /// Makes the folder. \param cache the folder of all models \throws Error invalid_input naming what is in the way
  ModelCache(const std::filesystem::path& cache, const ModelName& model);

  /// \return the place of the file's bytes.
  std::filesystem::path blob(const HubFile& file) const { return folder_ / "blobs" / file.digest; }
  /// \return whether the file's bytes are all there.
  bool has(const HubFile& file) const;
  /// \return the bytes that are to be fetched for the files: beside those that an earlier process has left.
  uint64_t missing_bytes(std::span<const HubFile> files) const;
  /// \throws Error invalid_input saying what is free if the file system has no room for so many bytes more
  void require_room(uint64_t bytes) const;

  /// \return a lock on the blob, which other processes of nostos and huggingface_hub heed, held while it lives.
  /// \param is_stopped is asked while it waits. \throws Error cancelled
  Descriptor lock(const HubFile& file, const std::function<bool()>& is_stopped) const;

  /// Makes the snapshot of a commit, once all blobs are there. Readers take a snapshot to be whole that has a
  /// model_index.json, so that this one comes last. \return its folder
  std::filesystem::path link(const std::string& commit, std::span<const HubFile> files) const;
  /// Has the revision mean the commit. \param revision a branch, a tag, or the commit, of which there is no reference
  void set_reference(const std::string& revision, const std::string& commit) const;

 private:
  std::filesystem::path cache_, folder_, locks_;
};

}  // namespace nostos
