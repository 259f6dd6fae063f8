// Owns what is said about the room that jobs and pictures take: limits, use, and the error of a disk that is full.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"

namespace nostos::server {

/// Beyond which jobs that have ended are forgotten, those first that ended first. 0: no limit.
struct StorageLimits {
  double days = 0;       ///< since a job ended
  int64_t pictures = 0;  ///< a job that ended without one counts as one
  uint64_t bytes = 0;    ///< of pictures
};

/// What is kept of jobs that have ended.
struct StorageUse {
  int64_t pictures = 0;
  int64_t entries = 0;  ///< pictures, and jobs without one
  uint64_t bytes = 0;   ///< of pictures
};

/// Nothing can be written: a full disk, a quota, a file system that is read-only or fails, a database that others hold.
/// What was to be written can be once that is mended.
class StorageError : public Error {
 public:
  /// \param reason what the system says, without names of files
  StorageError(const std::string& message, std::string reason)
      : Error(ErrorKind::internal, message), reason_(std::move(reason)) {}
  const std::string& reason() const { return reason_; }

 private:
  std::string reason_;
};

}  // namespace nostos::server
