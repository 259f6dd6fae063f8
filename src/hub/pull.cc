// Implements pulling a model with several threads.
#include "hub/pull.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "hub/hub.h"
#include "hub/model_cache.h"
#include "hub/partial_blob.h"
#include "io/file.h"

namespace nostos {
namespace {

constexpr size_t kMostIndexBytes = size_t{16} << 20;

/// The files of one pull, on their way.
class Downloads {
 public:
  Downloads(const PullOptions& options, const ModelCache& cache, std::string commit)
      : options_(options), cache_(cache), commit_(std::move(commit)) {}

  /// Fetches one file if it is not there.
  void fetch(Hub& hub, const HubFile& file, const std::function<void(int64_t)>& on_bytes) {
    const std::function<bool()> is_stopped = [this] { return stopped(); };
    const Descriptor lock = cache_.lock(file, is_stopped);
    if (cache_.has(file)) {  // by now
      on_bytes(static_cast<int64_t>(file.bytes));
      return;
    }
    PartialBlob blob(cache_.blob(file), file, on_bytes, is_stopped);
    hub.fetch(commit_, file, blob);
  }

  /// Fetches all files, the largest first, and returns when all are there. \throws Error the first of any thread
  void fetch_all(std::vector<HubFile> files, const std::function<void(uint64_t done)>& on_bytes) {
    std::ranges::stable_sort(files, std::greater(), &HubFile::bytes);
    const size_t most = std::min(static_cast<size_t>(options_.connections), files.size());
    {
      std::vector<std::jthread> threads;
      while (threads.size() < most) threads.emplace_back([this, &files] { work(files); });
      std::unique_lock lock(mutex_);
      while (ended_ < most) {
        changed_.wait_for(lock, std::chrono::milliseconds(100));
        lock.unlock();
        on_bytes(static_cast<uint64_t>(std::max<int64_t>(done_, 0)));
        lock.lock();
      }
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool stopped() const { return failed_ || options_.is_interrupted(); }

  void work(const std::vector<HubFile>& files) {
    try {
      Hub hub(options_.place, options_.model, [this] { return stopped(); });
      for (size_t next = next_++; next < files.size() && !failed_; next = next_++)
        fetch(hub, files[next], [this](int64_t bytes) { done_ += bytes; });
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_ = true;
    }
    const std::lock_guard lock(mutex_);
    ++ended_;
    changed_.notify_one();
  }

  const PullOptions& options_;
  const ModelCache& cache_;
  std::string commit_;
  std::atomic<size_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t ended_ = 0;  // threads
  std::exception_ptr error_;
};

/// \return the files of which some bytes are to be fetched, each content once.
std::vector<HubFile> missing_files(const ModelCache& cache, const std::vector<HubFile>& files) {
  std::vector<HubFile> missing;
  std::set<std::string> seen;
  for (const HubFile& file : files)
    if (!cache.has(file) && seen.insert(file.digest).second) missing.push_back(file);
  return missing;
}

uint64_t bytes_of(const std::vector<HubFile>& files) {
  uint64_t bytes = 0;
  for (const HubFile& file : files) bytes += file.bytes;
  return bytes;
}

std::vector<std::filesystem::path> places_of(const std::filesystem::path& snapshot, const std::vector<HubFile>& files) {
  std::vector<std::filesystem::path> weights, all;
  for (const HubFile& file : files) {
    all.push_back(snapshot / file.path);
    if (file.path.ends_with(".safetensors") || file.path.ends_with(".gguf")) weights.push_back(all.back());
  }
  return weights.empty() ? all : weights;
}

}  // namespace

PulledModel pull_model(const PullOptions& options, const PullProgress& progress) {
  const std::string name = options.model.owner + "/" + options.model.name;
  Hub hub(options.place, options.model, options.is_interrupted);
  const std::string commit = hub.commit();
  const std::vector<HubFile> all = hub.files(commit);
  const ModelCache cache(options.cache, options.model);
  Downloads downloads(options, cache, commit);
  const WantedFiles wanted = wanted_files(name, all, options.wish, [&](const HubFile& file) {
    require(file.bytes <= kMostIndexBytes, ErrorKind::model, "'{}' of '{}' has {} bytes, more than any index",
            file.path, name, file.bytes);
    if (!cache.has(file)) downloads.fetch(hub, file, [](int64_t) {});
    return read_file(cache.blob(file), kMostIndexBytes, ErrorKind::model);
  });
  const uint64_t missing = cache.missing_bytes(wanted.files);
  cache.require_room(missing);
  progress.on_plan({commit, wanted.files.size(), bytes_of(wanted.files), missing});
  const std::vector<HubFile> to_fetch = missing_files(cache, wanted.files);
  const uint64_t total = bytes_of(to_fetch);
  downloads.fetch_all(to_fetch, [&](uint64_t done) { progress.on_bytes(done, total); });
  PulledModel pulled{cache.link(commit, wanted.files), {}};
  cache.set_reference(options.model.revision.empty() ? "main" : options.model.revision, commit);
  if (!wanted.is_folder) pulled.files = places_of(pulled.snapshot, wanted.files);
  return pulled;
}

}  // namespace nostos
