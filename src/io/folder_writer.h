// Owns writing a folder of files so that it appears whole or not at all.
#pragma once

#include <filesystem>
#include <set>
#include <string>

namespace nostos {

/// A folder being written. Files go to a folder of a temporary name beside it, and commit() renames that into place. A
/// folder that is not committed vanishes. One thread uses a FolderWriter.
class FolderWriter {
 public:
  /// \param folder need not exist; an empty one is replaced
  /// \param replaceable names of what a folder may hold that is replaced with all that is in it: nothing else is ever
  /// removed; none: a folder that holds anything is refused
  /// \throws Error invalid_input saying what is in the way
  FolderWriter(const std::filesystem::path& folder, const std::set<std::string>& replaceable);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  /// \return the folder to write to.
  const std::filesystem::path& path() const { return temporary_; }
  /// Puts the folder under its name. Call it once, and last. \throws Error internal
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;  // empty once it is in place
};

}  // namespace nostos
