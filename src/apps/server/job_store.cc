// Implements the job store.
#include "apps/server/job_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <map>
#include <set>

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
  job.order = {.record = cli::parse_drawing_record(row.text(2), "the record of job " + job.id),
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

/// Adds a column of `jobs` that databases of earlier versions lack.
void add_missing_column(Database& database, std::string_view name, const std::string& definition) {
  if (Statement(database.handle(), "SELECT 1 FROM pragma_table_info('jobs') WHERE name = ?").bind(name).step()) return;
  database.execute(("ALTER TABLE jobs ADD COLUMN " + definition).c_str());
}

/// \return the folder, made if it was missing.
std::filesystem::path made(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder / "images", error);
  require(!error, ErrorKind::invalid_input, "--data-dir {}: the folder cannot be made: {}", folder.string(),
          error.message());
  return folder;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(::open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
  require(descriptor_ >= 0, ErrorKind::invalid_input, "--data-dir {}: files cannot be made there", folder.string());
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
  ::close(descriptor_);
  fail(ErrorKind::invalid_input, "--data-dir {}: another server uses it; give each its own", folder.string());
}

FolderLock::~FolderLock() { ::close(descriptor_); }

JobStore::JobStore(const std::filesystem::path& folder)
    : folder_(made(folder)), lock_(folder_), database_(folder_ / "jobs.sqlite") {
  database_.execute(kSchema);
  add_missing_column(database_, "cut", "cut INTEGER NOT NULL DEFAULT 0");
  recover();
}

void JobStore::recover() {
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
  recover_pictures();
}

void JobStore::recover_pictures() {
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
  give_up_pictures(given_up);
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "images")) {
    const auto found = known.find(entry.path().filename().string());
    if (found != known.end() && !given_up.contains(found->second.job)) continue;
    if (std::filesystem::remove(entry.path(), error))
      log_info("{} belongs to no completed job: removed", entry.path().string());
    else
      log_warning("{} belongs to no completed job, and cannot be removed: {}", entry.path().string(), error.message());
  }
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

void JobStore::wait_for_disk(bool wait) {
  database_.execute(wait ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
}

Job JobStore::insert(const Job& job) {
  const std::lock_guard lock(mutex_);
  wait_for_disk(!job.attached);
  if (const auto earlier = find_by_key_locked(job.idempotency_key)) return *earlier;
  Statement row(
      database_.handle(),
      "INSERT INTO jobs (id, status, record, format, quality, client, body_fingerprint, attached, created_at, "
      "idempotency_key) VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)");
  row.bind(job.id)
      .bind(cli::to_json(job.order.record))
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
  return job;
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
  for (Job& job : jobs) load_images(job);
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
  return read_all(rows);
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
  wait_for_disk(false);
  Statement(database_.handle(),
            "UPDATE jobs SET status = 'running', started_at = ?, attempts = attempts + 1 WHERE id = ?")
      .bind(unix_now())
      .bind(id)
      .step();
}

void JobStore::set_queued(std::string_view id) {
  const std::lock_guard lock(mutex_);
  // Stopped on purpose: that attempt does not speak against the job.
  Statement(database_.handle(),
            "UPDATE jobs SET status = 'queued', started_at = 0, attempts = attempts - 1 WHERE id = ?")
      .bind(id)
      .step();
}

void JobStore::set_ended(std::string_view id, JobStatus status, std::string_view error) {
  const std::lock_guard lock(mutex_);
  wait_for_disk(true);
  Statement(database_.handle(),
            "UPDATE jobs SET status = ?, error = ?, finished_at = ? WHERE id = ? AND status IN ('queued', 'running')")
      .bind(name(status))
      .bind(error)
      .bind(unix_now())
      .bind(id)
      .step();
}

void JobStore::set_completed(const Job& job, std::span<const JobImage> images, std::string_view timings) {
  const std::lock_guard lock(mutex_);
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
}

void JobStore::remove(const Job& job) {
  const std::lock_guard lock(mutex_);
  Statement(database_.handle(), "DELETE FROM jobs WHERE id = ?").bind(job.id).step();
  // Without their rows they are garbage, which the next start removes if this does not.
  std::error_code ignored;
  for (const JobImage& image : job.images) std::filesystem::remove(image_file(image), ignored);
}

std::optional<JobImage> JobStore::find_image(std::string_view id) {
  const std::lock_guard lock(mutex_);
  Statement row(database_.handle(), "SELECT id, seed, width, height, format, bytes FROM images WHERE id = ?");
  row.bind(id);
  return row.step() ? std::optional(read_image(row)) : std::nullopt;
}

std::filesystem::path JobStore::image_file(const JobImage& image) const {
  return folder_ / "images" / (image.id + "." + name(image.format));
}

}  // namespace nostos::server
