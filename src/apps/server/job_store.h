// Owns what survives the process: jobs in a database, pictures in a folder beside it.
#pragma once

#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/server/database.h"
#include "apps/server/job.h"

namespace nostos::server {

/// A job that was begun this often and never ended takes the process down with it, and is given up.
constexpr int kMaxAttempts = 5;

/// Keeps a folder for one process for as long as it lives.
class FolderLock {
 public:
  /// \throws Error invalid_input if another process has it, or no file can be made there
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// Every change survives the process when the call returns. It survives the machine, too, where a client was promised
/// so: new jobs, and ends of jobs, but not those of attached ones, whose client has the picture itself. Any thread.
class JobStore {
 public:
  /// Creates the folder if missing, locks it against other servers, brings jobs that were running back to the queue,
  /// cancels those whose client went with the process, and removes pictures that belong to no completed job. A job
  /// has failed of whose pictures a power cut left one missing or half written.
  /// \throws Error invalid_input if it cannot be written or another server holds it, internal for a damaged database
  explicit JobStore(const std::filesystem::path& folder);

  /// \return the job of that key, made by whoever came first: `job` itself, or an earlier one of the same key.
  Job insert(const Job& job);
  std::optional<Job> find(std::string_view id);
  /// \return the job that was made with this idempotency key, or nothing.
  std::optional<Job> find_by_key(std::string_view key);
  /// \return jobs that wait, in the order of their arrival.
  std::vector<Job> queued();
  /// \return jobs from the newest on. \param before id of a job: only older ones \param status only of that status
  std::vector<Job> list(int64_t limit, std::string_view before, std::optional<JobStatus> status);

  void set_running(std::string_view id);
  void set_queued(std::string_view id);
  /// Writes nothing over an earlier end. \param error why it failed or was cancelled
  void set_ended(std::string_view id, JobStatus status, std::string_view error);
  /// Status, pictures and timings in one transaction.
  void set_completed(const Job& job, std::span<const JobImage> images, std::string_view timings);
  /// Removes an ended job and its pictures.
  void remove(const Job& job);

  std::optional<JobImage> find_image(std::string_view id);
  /// \return the file of a picture, which set_completed() is to be preceded by.
  std::filesystem::path image_file(const JobImage& image) const;

 private:
  void recover();
  /// Holds the pictures that jobs have against the files that there are: a job fails whose pictures are not all whole,
  /// and files that belong to no completed job are removed.
  void recover_pictures();
  /// Makes failed of jobs that were completed, all at once.
  void give_up_pictures(const std::set<std::string>& jobs);
  /// Says whether the following commits wait for the disk.
  void wait_for_disk(bool wait);
  std::optional<Job> find_by_key_locked(std::string_view key);
  void load_images(Job& job);
  std::vector<Job> read_all(Statement& rows);

  std::filesystem::path folder_;
  FolderLock lock_;
  std::mutex mutex_;
  Database database_;
};

}  // namespace nostos::server
