// Implements what the job store does about the room that it takes: files of pictures, limits, and a full disk.

#include <nlohmann/json.hpp>

#include "apps/server/job_store.h"
#include "apps/server/json_log.h"
#include "base/error.h"

namespace nostos::server {
namespace {

// Health tells it to everybody, and names of folders are nobody's business.
constexpr const char* kNoFolder = "no file can be made in the folder of pictures";
constexpr size_t kMaxReferenceBytes = size_t{1} << 30;

}  // namespace

std::filesystem::path JobStore::image_file(const JobImage& image) const {
  return folder_ / "images" / (image.id + "." + name(image.format));
}

void JobStore::write_image(const JobImage& image, std::span<const uint8_t> bytes, Survives survives) {
  write_file(image_file(image), bytes, survives);
}

void JobStore::write_file(const std::filesystem::path& path, std::span<const uint8_t> bytes, Survives survives) {
  try {
    write_file_atomically(path, bytes, survives);
  } catch (const Error& error) {
    const std::string message = error.what();
    const size_t name_end = message.rfind("': ");
    std::string reason = name_end == std::string::npos ? message : message.substr(name_end + 3);
    if (reason.find('/') != std::string::npos) reason = kNoFolder;
    set_trouble(reason);
    throw StorageError(message, reason);
  }
}

std::filesystem::path JobStore::reference_file(std::string_view job, size_t index) const {
  return folder_ / "references" / fmt::format("{}_{}", job, index);
}

std::filesystem::path JobStore::mask_file(std::string_view job) const {
  return folder_ / "references" / fmt::format("{}_mask", job);
}

std::filesystem::path JobStore::control_file(std::string_view job) const {
  return folder_ / "references" / fmt::format("{}_control", job);
}

std::string JobStore::read_control(std::string_view job) const {
  return read_file(control_file(job), kMaxReferenceBytes);
}

std::string JobStore::read_mask(std::string_view job) const { return read_file(mask_file(job), kMaxReferenceBytes); }

std::string JobStore::read_reference(std::string_view job, size_t index) const {
  return read_file(reference_file(job, index), kMaxReferenceBytes);
}

void JobStore::write_references(const Job& job) {
  const auto write = [&](const std::filesystem::path& path, const std::string& bytes) {
    // With the job's row, which survives the machine where a client was promised so.
    write_file(path, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
               job.attached ? Survives::process : Survives::machine);
  };
  const DrawingOrder& order = job.order;
  try {
    for (size_t i = 0; i < order.references.size(); ++i) write(reference_file(job.id, i), *order.references[i]);
    if (order.mask != nullptr) write(mask_file(job.id), *order.mask);
    if (order.control != nullptr) write(control_file(job.id), *order.control);
  } catch (...) {
    remove_references(job.id);
    throw;
  }
}

void JobStore::remove_references(std::string_view job) {
  std::error_code ignored;
  for (size_t i = 0; std::filesystem::remove(reference_file(job, i), ignored);) ++i;
  std::filesystem::remove(mask_file(job), ignored);
  std::filesystem::remove(control_file(job), ignored);
}

void JobStore::check_references() {
  std::set<std::string> waiting;
  {
    Statement rows(database_.handle(), "SELECT id FROM jobs WHERE status = 'queued'");
    while (rows.step()) waiting.insert(rows.text(0));
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "references")) {
    const std::string name = entry.path().filename().string();
    if (!waiting.contains(name.substr(0, name.rfind('_')))) std::filesystem::remove(entry.path(), error);
  }
}

void JobStore::remove_images(std::span<const JobImage> images, uint64_t wanted_bytes) {
  std::error_code ignored;
  for (const JobImage& image : images) std::filesystem::remove(image_file(image), ignored);
  const std::lock_guard lock(state_mutex_);
  wanted_bytes_ = std::max(wanted_bytes_, wanted_bytes);
}

void JobStore::shorten_log() {
  try {
    database_.execute("PRAGMA wal_checkpoint(TRUNCATE)");
  } catch (const StorageError&) {
    // It stays as long as it is.
  }
}

std::optional<std::string> JobStore::trouble() const {
  const std::lock_guard lock(state_mutex_);
  return trouble_.empty() ? std::nullopt : std::optional(trouble_);
}

void JobStore::set_trouble(const std::string& reason) {
  {
    const std::lock_guard lock(state_mutex_);
    const bool is_known = !trouble_.empty();
    trouble_ = reason;
    if (is_known) return;
  }
  log_json(LogLevel::error, "storage unwritable", {{"reason", reason}});
}

bool JobStore::probe() {
  const std::lock_guard lock(mutex_);
  const bool was_in_trouble = trouble().has_value();
  uint64_t wanted_bytes = 0;
  {
    const std::lock_guard state(state_mutex_);
    wanted_bytes = wanted_bytes_;
  }
  if (!was_in_trouble && free_bytes() >= wanted_bytes) return false;
  std::string reason = reserve_.take(wanted_bytes);
  std::error_code missing;
  const uint64_t log_bytes = std::filesystem::file_size(folder_ / "jobs.sqlite-wal", missing);
  if (!reason.empty() && !missing && log_bytes > reserve_.size()) {
    // On a small disk it is the log of changes that fills it, and to shorten it takes space, too.
    reserve_.release();
    shorten_log();
    reason = reserve_.take(wanted_bytes);
  }
  if (!reason.empty()) {
    set_trouble(reason);
    return false;
  }
  if (!was_in_trouble) return false;  // the file system gives more than it tells
  try {
    require_writable(folder_ / "images" / "probe");
    shorten_log();
    if (!recovered_) recover();
    for (auto end = unwritten_.begin(); end != unwritten_.end(); end = unwritten_.erase(end))
      write_end(end->first, end->second);
    database_.execute("PRAGMA user_version = 1");  // whatever else there was to write, this is written
  } catch (const StorageError& error) {
    set_trouble(error.reason());
    return false;
  } catch (const Error& error) {
    log_json(LogLevel::debug, "storage unwritable", {{"error", error.what()}});
    set_trouble(kNoFolder);
    return false;
  }
  {
    const std::lock_guard state(state_mutex_);
    trouble_.clear();
    wanted_bytes_ = reserve_.size();
  }
  log_json(LogLevel::info, "storage writable again", {{"free_bytes", free_bytes()}});
  return true;
}

StorageUse JobStore::use() const {
  const std::lock_guard lock(state_mutex_);
  return use_;
}

std::vector<std::string> JobStore::surplus(int64_t most) {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  StorageUse left = use();
  int64_t behind = left.entries;  // of jobs that ended after the one that is looked at
  const double oldest = limits_.days > 0 ? unix_now() - limits_.days * 86'400 : 0;
  Statement rows(database_.handle(),
                 "SELECT id, finished_at, (SELECT count(*) FROM images WHERE job = jobs.id), "
                 "(SELECT coalesce(sum(bytes), 0) FROM images WHERE job = jobs.id) "
                 "FROM jobs WHERE finished_at > 0 ORDER BY finished_at LIMIT ?");
  rows.bind(most);
  while (rows.step()) {
    const int64_t pictures = rows.integer(2), entries = std::max<int64_t>(pictures, 1);
    const bool is_old = rows.real(1) < oldest;
    const bool is_over =
        (limits_.pictures > 0 && left.entries > limits_.pictures) || (limits_.bytes > 0 && left.bytes > limits_.bytes);
    behind -= entries;
    if (!is_old && (!is_over || behind <= 0)) break;
    {
      const std::lock_guard state(state_mutex_);
      if (held_.contains(rows.text(0))) continue;
    }
    ids.push_back(rows.text(0));
    left.entries -= entries;
    left.bytes -= static_cast<uint64_t>(rows.integer(3));
  }
  return ids;
}

std::shared_ptr<void> JobStore::hold(const std::string& id) {
  const std::lock_guard lock(state_mutex_);
  held_.insert(id);
  return {nullptr, [this, id](std::nullptr_t) {
            const std::lock_guard state(state_mutex_);
            held_.erase(held_.find(id));
          }};
}

}  // namespace nostos::server
