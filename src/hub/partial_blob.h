// Owns a file of the cache that is being fetched: it grows under another name, survives the end of the process, and
// gets its own name when its checksum is right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "base/digest.h"
#include "hub/hub_answers.h"
#include "io/file.h"

namespace nostos {

/// The file `BLOB.incomplete`, which huggingface_hub knows by this name, too. Whoever has it holds the blob's lock.
class PartialBlob {
 public:
  /// Goes on with what an earlier process has left.
  /// \param blob the name of the whole file
  /// \param on_bytes is told how many bytes there are more, or if they begin anew less
  /// \param is_stopped is asked while the bytes that are there are read. \throws Error cancelled
  /// \throws Error invalid_input if the file cannot be made
  PartialBlob(std::filesystem::path blob, const HubFile& file, std::function<void(int64_t)> on_bytes,
              const std::function<bool()>& is_stopped);

  /// \return the bytes that are there.
  uint64_t bytes() const { return bytes_; }
  /// Appends bytes; more than the file has are dropped with all others, by restart().
  /// \throws Error internal, e.g. that no space is left
  void append(std::span<const std::byte> bytes);
  /// Drops all bytes.
  void restart();
  /// Gives the file its name if its checksum is right, else drops all bytes. \return whether it is right
  bool commit();

 private:
  [[noreturn]] void fail_to_write(int error) const;

  std::filesystem::path blob_, partial_;
  HubFile file_;
  std::function<void(int64_t)> on_bytes_;
  Descriptor descriptor_;
  Digest digest_;
  uint64_t bytes_ = 0;
};

}  // namespace nostos
