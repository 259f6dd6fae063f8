// Owns reading what a Hugging Face hub answers: the commit of a revision, a page of a listing, and headers. Nobody
// vouches for it, so that every value is checked before a path or a request is made of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"

namespace nostos {

/// A file of a repository on a hub.
struct HubFile {
  std::string path;  ///< within the repository, with "/" between plain names
  uint64_t bytes = 0;
  /// The checksum by which the file is known: of a large file (LFS) the SHA-256 of its bytes, of any other the SHA-1
  /// that git gives it, which begins with `blob SIZE\0`.
  std::string digest;
  bool is_large = false;

  /// \return a checksum that has read what goes before the bytes, to be compared with `digest`.
  Digest begin_digest() const;
};

/// Reads the answer of /api/models/NAME/revision/REVISION.
/// \param name stands for the answer in messages
/// \return the commit, 40 hexadecimal digits. \throws Error model
std::string parse_hub_commit(std::string_view text, const std::string& name);

/// Reads one page of the answer of /api/models/NAME/tree/COMMIT. Folders are left out.
/// \param name stands for the answer in messages
/// \throws Error model naming the field, e.g. if a path would lead out of the repository's folder
std::vector<HubFile> parse_hub_listing(std::string_view text, const std::string& name);

/// \return of a header `Link` the address of the next page, "" if there is none.
std::string parse_next_page(std::string_view link);

/// \return of a header `Retry-After` the seconds; nothing if it is none, or a date.
std::optional<int64_t> parse_retry_after(std::string_view value);

}  // namespace nostos
