// Implements the job store.
#include "apps/server/job_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"

namespace nostos::server {
namespace {

constexpr const char* kSchema = R"(
CREATE TABLE IF NOT EXISTS jobs (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL,
  record TEXT NOT NULL,
  format TEXT NOT NULL,
  quality INTEGER NOT NULL,
  client TEXT NOT NULL,
  idempotency_key TEXT UNIQUE,
  body_fingerprint TEXT NOT NULL,
  attached INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL,
  started_at REAL NOT NULL DEFAULT 0,
  finished_at REAL NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '',
  timings TEXT NOT NULL DEFAULT '',
  cut INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, sequence);
CREATE TABLE IF NOT EXISTS images (
  id TEXT PRIMARY KEY,
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  seed INTEGER NOT NULL,
  width INTEGER NOT NULL,
  height INTEGER NOT NULL,
  format TEXT NOT NULL,
  bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS images_by_job ON images (job, number);
)";
constexpr const char* kIndexSinceFirstVersion = "CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (finished_at)";

constexpr std::string_view kColumns =
    "SELECT id, status, record, format, quality, client, idempotency_key, body_fingerprint, attached, attempts, "
    "created_at, started_at, finished_at, error, timings, cut FROM jobs ";

// Bits of the column `cut`.
constexpr int64_t kCutPrompt = 1, kCutNegative = 2;

/// \return the job of the row that `row` stands on, without its pictures.
Job read_job(const Statement& row) {
  Job job;
  job.id = row.text(0);
  job.status = parse_status(row.text(1)).value_or(JobStatus::failed);
  job.order = {.record = parse_drawing_record(row.text(2), "the record of job " + job.id),
               .format = parse_format(row.text(3)).value_or(ImageFormat::png),
               .quality = static_cast<int>(row.integer(4))};
  job.client = row.text(5);
  job.idempotency_key = row.text(6);
  job.body = row.text(7);
  job.attached = row.integer(8) != 0;
  job.attempts = static_cast<int>(row.integer(9));
  job.created_at = row.real(10);
  job.started_at = row.real(11);
  job.finished_at = row.real(12);
  job.error = row.text(13);
  job.timings = row.text(14);
  job.cut = {(row.integer(15) & kCutPrompt) != 0, (row.integer(15) & kCutNegative) != 0};
  return job;
}

/// \return the picture of a row of id, seed, width, height, format, bytes.
JobImage read_image(const Statement& row) {
  return {.id = row.text(0),
          .seed = static_cast<uint64_t>(row.integer(1)),
          .width = row.integer(2),
          .height = row.integer(3),
          .format = parse_format(row.text(4)).value_or(ImageFormat::png),
          .bytes = static_cast<uint64_t>(row.integer(5))};
}

/// \return the database. On a full disk the reserve makes room, and what other processes would share is not made.
Database opened(const std::filesystem::path& file, DiskReserve& reserve) {
  try {
    return Database(file);
  } catch (const StorageError&) {
    reserve.release();
  }
  return Database(file, Database::Sharing::nobody);
}

/// Adds a column of `jobs` that databases of earlier versions lack.
void add_missing_column(Database& database, std::string_view name, const std::string& definition) {
  if (Statement(database.handle(), "SELECT 1 FROM pragma_table_info('jobs') WHERE name = ?").bind(name).step()) return;
  database.execute(("ALTER TABLE jobs ADD COLUMN " + definition).c_str());
}

/// \return the folder, made if it was missing.
std::filesystem::path made(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder / "images", error);
  if (!error) std::filesystem::create_directories(folder / "references", error);
  require(!error, ErrorKind::invalid_input, "--data-dir {}: the folder cannot be made: {}", folder.string(),
          error.message());
  return folder;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(::open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  require(descriptor_ >= 0, ErrorKind::invalid_input, "--data-dir {}: files cannot be made there", folder.string());
  require(::flock(descriptor_, LOCK_EX | LOCK_NB) == 0, ErrorKind::invalid_input,
          "--data-dir {}: another server uses it; give each its own", folder.string());
}

JobStore::JobStore(const std::filesystem::path& folder, const StorageLimits& limits)
    : folder_(made(folder)),
      limits_(limits),
      lock_(folder_),
      reserve_(folder_),
      database_(opened(folder_ / "jobs.sqlite", reserve_)),
      wanted_bytes_(reserve_.size()) {
  database_.execute(kSchema);
  add_missing_column(database_, "cut", "cut INTEGER NOT NULL DEFAULT 0");
  try {
    recover();
  } catch (const StorageError& error) {
    set_trouble(error.reason());
    count_use();
  }
  if (const std::string reason = reserve_.take(wanted_bytes_); !reason.empty()) set_trouble(reason);
}

void JobStore::recover() {
  // Before anything is written: what a server that was killed left half done may be what fills the disk.
  const std::set<std::string> given_up = check_pictures();
  {
    Transaction transaction(database_);
    const double now = unix_now();
    Statement(database_.handle(),
              "UPDATE jobs SET status = 'cancelled', error = 'its client was gone when the server started again', "
              "finished_at = ? WHERE attached AND status IN ('queued', 'running')")
        .bind(now)
        .step();
    Statement(
        database_.handle(),
        "UPDATE jobs SET status = 'failed', error = 'the server ended ' || attempts || ' times while drawing it', "
        "finished_at = ? WHERE status = 'running' AND attempts >= ?")
        .bind(now)
        .bind(int64_t{kMaxAttempts})
        .step();
    database_.execute("UPDATE jobs SET status = 'queued', started_at = 0 WHERE status = 'running'");
    transaction.commit();
  }
  give_up_pictures(given_up);
  check_references();
  database_.execute(kIndexSinceFirstVersion);
  recovered_ = true;
  count_use();
}

std::set<std::string> JobStore::check_pictures() {
  struct Known {
    std::string job;
    uint64_t bytes = 0;
    bool is_whole = false;
  };
  std::map<std::string, Known> known;  // by the name of the file
  {
    Statement rows(database_.handle(), "SELECT id, seed, width, height, format, bytes, job FROM images");
    while (rows.step()) {
      const JobImage image = read_image(rows);
      known[image_file(image).filename().string()] = {rows.text(6), image.bytes};
    }
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "images")) {
    const auto found = known.find(entry.path().filename().string());
    if (found != known.end()) found->second.is_whole = entry.file_size(error) == found->second.bytes && !error;
  }
  std::set<std::string> given_up;
  for (const auto& [file, image] : known) {
    if (image.is_whole) continue;
    log_warning("{} is missing or not whole: the machine went down, or somebody changed it",
                (folder_ / "images" / file).string());
    given_up.insert(image.job);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "images")) {
    const auto found = known.find(entry.path().filename().string());
    if (found != known.end() && !given_up.contains(found->second.job)) continue;
    if (std::filesystem::remove(entry.path(), error))
      log_info("{} belongs to no completed job: removed", entry.path().string());
    else
      log_warning("{} belongs to no completed job, and cannot be removed: {}", entry.path().string(), error.message());
  }
  return given_up;
}

void JobStore::give_up_pictures(const std::set<std::string>& jobs) {
  if (jobs.empty()) return;
  Transaction transaction(database_);
  for (const std::string& id : jobs) {
    Statement(database_.handle(), "DELETE FROM images WHERE job = ?").bind(id).step();
    Statement(database_.handle(), "UPDATE jobs SET status = 'failed', error = ? WHERE id = ?")
        .bind("its pictures were missing or not whole when the server started again")
        .bind(id)
        .step();
  }
  transaction.commit();
}

void JobStore::count_use() {
  Statement pictures(database_.handle(), "SELECT count(*), coalesce(sum(bytes), 0), count(DISTINCT job) FROM images");
  Statement ended(database_.handle(), "SELECT count(*) FROM jobs WHERE finished_at > 0");
  pictures.step();
  ended.step();
  const std::lock_guard lock(state_mutex_);
  use_ = {.pictures = pictures.integer(0),
          .entries = pictures.integer(0) + ended.integer(0) - pictures.integer(2),
          .bytes = static_cast<uint64_t>(pictures.integer(1))};
}

void JobStore::wait_for_disk(bool wait) {
  database_.execute(wait ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
}

template <class Change>
void JobStore::write(bool may_take_reserve, const Change& change) {
  try {
    return change();
  } catch (const StorageError& error) {
    set_trouble(error.reason());
    if (!may_take_reserve) throw;
  }
  reserve_.release();
  shorten_log();
  change();
}

Job JobStore::insert(const Job& job) {
  write_references(job);  // without the lock: they are as large as clients send them
  try {
    const std::lock_guard lock(mutex_);
    if (const auto earlier = find_by_key_locked(job.idempotency_key)) {
      remove_references(job.id);
      return *earlier;
    }
    insert_row(job);
  } catch (...) {
    remove_references(job.id);
    throw;
  }
  return job;
}

void JobStore::insert_row(const Job& job) {
  write(false, [&] {
    wait_for_disk(!job.attached);
    Statement row(
        database_.handle(),
        "INSERT INTO jobs (id, status, record, format, quality, client, body_fingerprint, attached, created_at, "
        "idempotency_key) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)");
    row.bind(job.id)
        .bind(to_json(job.order.record))
        .bind(name(job.order.format))
        .bind(int64_t{job.order.quality})
        .bind(job.client)
        .bind(job.body)
        .bind(int64_t{job.attached})
        .bind(job.created_at);
    if (job.idempotency_key.empty())
      row.bind_null();
    else
      row.bind(job.idempotency_key);
    row.step();
  });
}

std::optional<Job> JobStore::find_by_key(std::string_view key) {
  const std::lock_guard lock(mutex_);
  return find_by_key_locked(key);
}

std::optional<Job> JobStore::find_by_key_locked(std::string_view key) {
  if (key.empty()) return std::nullopt;
  Statement row(database_.handle(), std::string(kColumns) + "WHERE idempotency_key = ?");
  row.bind(key);
  std::vector<Job> found = read_all(row);
  return found.empty() ? std::nullopt : std::optional(std::move(found.front()));
}

std::vector<Job> JobStore::read_all(Statement& rows) {
  std::vector<Job> jobs;
  while (rows.step()) jobs.push_back(read_job(rows));
  for (Job& job : jobs) {
    const auto end = unwritten_.find(job.id);
    if (end != unwritten_.end() && !has_ended(job.status)) {
      job.status = end->second.status;
      job.error = end->second.error;
      job.finished_at = end->second.at;
    }
    load_images(job);
  }
  return jobs;
}

void JobStore::load_images(Job& job) {
  if (job.status != JobStatus::completed) return;
  Statement rows(database_.handle(),
                 "SELECT id, seed, width, height, format, bytes FROM images WHERE job = ? ORDER BY number");
  rows.bind(job.id);
  while (rows.step()) job.images.push_back(read_image(rows));
}

std::optional<Job> JobStore::find(std::string_view id) {
  const std::lock_guard lock(mutex_);
  Statement row(database_.handle(), std::string(kColumns) + "WHERE id = ?");
  row.bind(id);
  std::vector<Job> found = read_all(row);
  return found.empty() ? std::nullopt : std::optional(std::move(found.front()));
}

std::vector<Job> JobStore::queued() {
  const std::lock_guard lock(mutex_);
  Statement rows(database_.handle(), std::string(kColumns) + "WHERE status = 'queued' ORDER BY sequence");
  std::vector<Job> jobs = read_all(rows);
  std::erase_if(jobs, [](const Job& job) { return job.status != JobStatus::queued; });
  return jobs;
}

std::vector<Job> JobStore::list(int64_t limit, std::string_view before, std::optional<JobStatus> status) {
  const std::lock_guard lock(mutex_);
  std::string sql = std::string(kColumns) + "WHERE 1";
  if (!before.empty()) sql += " AND sequence < (SELECT sequence FROM jobs WHERE id = ?)";
  if (status) sql += " AND status = ?";
  Statement rows(database_.handle(), sql + " ORDER BY sequence DESC LIMIT ?");
  if (!before.empty()) rows.bind(before);
  if (status) rows.bind(name(*status));
  rows.bind(limit);
  return read_all(rows);
}

void JobStore::set_running(std::string_view id) {
  const std::lock_guard lock(mutex_);
  write(false, [&] {
    wait_for_disk(false);
    Statement(database_.handle(),
              "UPDATE jobs SET status = 'running', started_at = ?, attempts = attempts + 1 WHERE id = ?")
        .bind(unix_now())
        .bind(id)
        .step();
  });
}

void JobStore::set_queued(std::string_view id) {
  const std::lock_guard lock(mutex_);
  write(true, [&] {
    wait_for_disk(false);
    // Stopped on purpose: that attempt does not speak against the job.
    Statement(database_.handle(),
              "UPDATE jobs SET status = 'queued', started_at = 0, attempts = attempts - 1 WHERE id = ?")
        .bind(id)
        .step();
  });
}

void JobStore::set_ended(std::string_view id, JobStatus status, std::string_view error) {
  const std::lock_guard lock(mutex_);
  const End end{status, std::string(error), unix_now()};
  try {
    write(true, [&] { write_end(id, end); });
  } catch (const StorageError&) {
    unwritten_.try_emplace(std::string(id), end);
  }
}

void JobStore::write_end(std::string_view id, const End& end) {
  wait_for_disk(true);
  Statement(database_.handle(),
            "UPDATE jobs SET status = ?, error = ?, finished_at = ? WHERE id = ? AND status IN ('queued', 'running')")
      .bind(name(end.status))
      .bind(end.error)
      .bind(end.at)
      .bind(id)
      .step();
  remove_references(id);
  const std::lock_guard lock(state_mutex_);
  use_.entries += database_.changes();
}

void JobStore::set_completed(const Job& job, std::span<const JobImage> images, std::string_view timings) {
  const std::lock_guard lock(mutex_);
  write(true, [&] {
    wait_for_disk(!job.attached);
    Transaction transaction(database_);
    int64_t number = 0;
    for (const JobImage& image : images) {
      Statement(
          database_.handle(),
          "INSERT INTO images (id, job, number, seed, width, height, format, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
          .bind(image.id)
          .bind(job.id)
          .bind(number++)
          .bind(static_cast<int64_t>(image.seed))
          .bind(image.width)
          .bind(image.height)
          .bind(name(image.format))
          .bind(static_cast<int64_t>(image.bytes))
          .step();
    }
    Statement(database_.handle(),
              "UPDATE jobs SET status = 'completed', timings = ?, cut = ?, finished_at = ? WHERE id = ?")
        .bind(timings)
        .bind((job.cut.prompt ? kCutPrompt : 0) | (job.cut.negative ? kCutNegative : 0))
        .bind(unix_now())
        .bind(job.id)
        .step();
    transaction.commit();
  });
  remove_references(job.id);
  const std::lock_guard state(state_mutex_);
  use_.pictures += std::ssize(images);
  use_.entries += std::max<int64_t>(std::ssize(images), 1);
  for (const JobImage& image : images) use_.bytes += image.bytes;
}

void JobStore::remove(const Job& job) {
  const std::lock_guard lock(mutex_);
  const auto remove_files = [&] {
    std::error_code ignored;
    for (const JobImage& image : job.images) std::filesystem::remove(image_file(image), ignored);
    remove_references(job.id);
  };
  const auto remove_row = [&] {
    wait_for_disk(true);
    Statement(database_.handle(), "DELETE FROM jobs WHERE id = ?").bind(job.id).step();
  };
  try {
    write(true, remove_row);
  } catch (const StorageError&) {
    remove_files();
    write(true, remove_row);
  }
  const bool was_there = database_.changes() > 0;
  const bool was_counted = unwritten_.erase(job.id) == 0;
  // Without their rows they are garbage, which the next start removes if this does not.
  remove_files();
  if (!was_there) return;
  const std::lock_guard state(state_mutex_);
  use_.pictures -= std::ssize(job.images);
  if (was_counted) use_.entries -= std::max<int64_t>(std::ssize(job.images), 1);
  for (const JobImage& image : job.images) use_.bytes -= image.bytes;
}

std::optional<JobImage> JobStore::find_image(std::string_view id) {
  const std::lock_guard lock(mutex_);
  Statement row(database_.handle(), "SELECT id, seed, width, height, format, bytes FROM images WHERE id = ?");
  row.bind(id);
  return row.step() ? std::optional(read_image(row)) : std::nullopt;
}

}  // namespace nostos::server
