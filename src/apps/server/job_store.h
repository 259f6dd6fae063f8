// Owns what survives the process: jobs in a database, pictures in a folder beside it.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/server/database.h"
#include "apps/server/disk_reserve.h"
#include "apps/server/job.h"
#include "apps/server/storage.h"
#include "io/file.h"

namespace nostos::server {

/// A job that was begun this often and never ended takes the process down with it, and is given up.
constexpr int kMaxAttempts = 5;

/// Keeps a folder for one process for as long as it lives.
class FolderLock {
 public:
  /// \throws Error invalid_input if another process has it, or no file can be made there
  explicit FolderLock(const std::filesystem::path& folder);

 private:
  Descriptor descriptor_;
};

/// Every change survives the process when the call returns. It survives the machine, too, where a client was promised
/// so: new jobs, and ends of jobs, but not those of attached ones, whose client has the picture itself. Any thread.
///
/// Where the disk is full, what throws StorageError has changed nothing. A reserve of some megabytes is given up for
/// ends of jobs and for removing jobs; new jobs and pictures are not written from then on, until probe() finds space.
class JobStore {
 public:
  /// Creates the folder if missing, locks it against other servers, brings jobs that were running back to the queue,
  /// cancels those whose client went with the process, and removes pictures that belong to no completed job. A job
  /// has failed of whose pictures a power cut left one missing or half written. On a full disk probe() does this later.
  /// \throws Error invalid_input if it cannot be written or another server holds it, internal for a damaged database,
  /// StorageError for a new folder on a full disk
  explicit JobStore(const std::filesystem::path& folder, const StorageLimits& limits = {});

  /// Keeps the files of its images and its mask beside it, until it has ended.
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
  /// Writes nothing over an earlier end. One that cannot be written is kept in memory until probe() can write it.
  /// \param error why it failed or was cancelled
  void set_ended(std::string_view id, JobStatus status, std::string_view error);
  /// Status, pictures and timings in one transaction.
  void set_completed(const Job& job, std::span<const JobImage> images, std::string_view timings);
  /// Removes an ended job and its pictures. Where not even the reserve is left, the pictures go first, and give their
  /// space. \throws StorageError if that was not enough: the job is still there, its pictures are not
  void remove(const Job& job);

  /// \return the bytes of a job's reference image `index`. \throws Error invalid_input if the file is gone
  std::string read_reference(std::string_view job, size_t index) const;
  /// The same of its mask.
  std::string read_mask(std::string_view job) const;
  /// The same of its control image.
  std::string read_control(std::string_view job) const;

  std::optional<JobImage> find_image(std::string_view id);
  /// \return the file of a picture.
  std::filesystem::path image_file(const JobImage& image) const;
  /// Writes the file of a picture, which set_completed() is to be preceded by. \throws StorageError
  void write_image(const JobImage& image, std::span<const uint8_t> bytes, Survives survives);
  /// Removes files of pictures that set_completed() has not been told of. \param wanted_bytes what probe() is to find
  /// free, since that many were too many
  void remove_images(std::span<const JobImage> images, uint64_t wanted_bytes);

  /// \return why nothing can be written, or nothing. Waits for no disk.
  std::optional<std::string> trouble() const;
  /// \return whether what the last process left is brought in order: queued() is not to be trusted before.
  bool is_recovered() const { return recovered_; }
  /// Looks whether there is space, and if there was none before, does what was left undone. \return whether the store
  /// can be written again since this call
  bool probe();

  const StorageLimits& limits() const { return limits_; }
  /// Waits for no disk.
  StorageUse use() const;
  /// \return bytes that are free on the disk; the largest number where the system does not say.
  uint64_t free_bytes() const { return reserve_.free_bytes(); }
  /// \return ended jobs to be removed for the store to be within its limits, the first to end first, at most `most`:
  /// none that is held, and for the limits of pictures and bytes not the last one.
  std::vector<std::string> surplus(int64_t most);
  /// \return what keeps the job out of surplus() while it lives, which must not be longer than the store does.
  std::shared_ptr<void> hold(const std::string& id);

 private:
  struct End {
    JobStatus status;
    std::string error;
    double at;
  };

  void recover();
  /// Holds the pictures that jobs have against the files that there are: files that belong to no completed job are
  /// removed. \return jobs whose pictures are not all whole
  std::set<std::string> check_pictures();
  void insert_row(const Job& job);
  std::filesystem::path reference_file(std::string_view job, size_t index) const;
  std::filesystem::path mask_file(std::string_view job) const;
  std::filesystem::path control_file(std::string_view job) const;
  void write_references(const Job& job);
  /// Of a job that has ended, or never began.
  void remove_references(std::string_view job);
  /// Removes files of reference images that belong to no job that waits.
  void check_references();
  /// Writes a file of the store's. \throws StorageError
  void write_file(const std::filesystem::path& path, std::span<const uint8_t> bytes, Survives survives);
  /// Makes failed of jobs that were completed, all at once.
  void give_up_pictures(const std::set<std::string>& jobs);
  void count_use();
  /// Says whether the following commits wait for the disk.
  void wait_for_disk(bool wait);
  /// Does `change`; if there is no space, once more with that of the reserve, where it `may_take_reserve`.
  template <class Change>
  void write(bool may_take_reserve, const Change& change);
  void write_end(std::string_view id, const End& end);
  /// Brings the write-ahead log into the database, and gives its bytes back, as far as there is space for that.
  void shorten_log();
  void set_trouble(const std::string& reason);
  std::optional<Job> find_by_key_locked(std::string_view key);
  void load_images(Job& job);
  std::vector<Job> read_all(Statement& rows);

  const std::filesystem::path folder_;
  const StorageLimits limits_;
  FolderLock lock_;
  std::mutex mutex_;  ///< held while the disk works
  DiskReserve reserve_;
  Database database_;
  std::atomic<bool> recovered_ = false;
  std::map<std::string, End, std::less<>> unwritten_;  ///< ends for which there was no space
  mutable std::mutex state_mutex_;                     ///< never held for long
  std::string trouble_;                                ///< empty: none
  uint64_t wanted_bytes_;                              ///< that are to be free
  StorageUse use_;
  std::multiset<std::string> held_;
};

}  // namespace nostos::server
