// Implements the reading and keeping of adapters.
#include "pipeline/adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"
#include "io/mapped_file.h"
#include "io/tensor_file.h"

namespace nostos {
namespace {

/// \return host memory of what an adapter holds, factors that updates share counted again: at least what it takes.
size_t size_in_bytes(const Adapter& adapter) {
  const auto bytes = [](const SharedMatrix& matrix) { return matrix->values.size() * sizeof(float); };
  size_t all = 0;
  for (const WeightUpdate& update : adapter.updates) {
    if (const auto* low_rank = std::get_if<LowRank>(&update.delta))
      all += bytes(low_rank->up) + bytes(low_rank->down);
    else if (const auto* kronecker = std::get_if<Kronecker>(&update.delta))
      all += bytes(kronecker->left) + bytes(kronecker->right);
    else
      all += bytes(std::get<Dense>(update.delta).difference);
  }
  return all;
}

/// \throws Error invalid_input unless the file has the hash that the use has, if any
void require_same_file(const AdapterUse& use, const std::string& hash) {
  require(use.sha256.empty() || use.sha256 == hash, ErrorKind::invalid_input,
          "lora '{}': {} is another file than the drawing wants: its SHA-256 is {}, not {}", use.name, use.file, hash,
          use.sha256);
}

/// \throws Error model if the adapter changes what no product reads
void require_applicable(const Adapter& adapter, const AdapterTargets& targets) {
  for (const WeightUpdate& update : adapter.updates) {
    const auto part = std::ranges::find(targets.parts(), update.part, &AdapterPart::name);
    require(part == targets.parts().end() || !part->tables.contains(update.target), ErrorKind::model,
            "{}: changes {}, a table that no product reads: nostos convert --lora merges it into the weights",
            adapter.report.file, update.target);
  }
}

/// \return what lists the model's tensors, and needs nothing of the family.
std::function<AdapterTargets()> lister_of(const Family& family) {
  std::vector<std::function<AdapterPart()>> listers;
  for (const ModelPart* part : family.parts())
    if (part->can_stream() && part->takes_adapters())  // what adapters change has blocks: no VAE
      listers.push_back(part->lister());
  return [name = std::string(family.name()), listers = std::move(listers)] {
    std::vector<AdapterPart> parts;
    for (const auto& list : listers) parts.push_back(list());
    return AdapterTargets(name, std::move(parts));
  };
}

}  // namespace

std::vector<AdapterUse> effective(std::span<const AdapterUse> adapters) {
  std::vector<AdapterUse> uses(adapters.begin(), adapters.end());
  std::erase_if(uses, [](const AdapterUse& use) { return use.scale == 0; });
  return uses;
}

bool same_changes(std::span<const AdapterUse> a, std::span<const AdapterUse> b) {
  return std::ranges::equal(effective(a), effective(b), [](const AdapterUse& one, const AdapterUse& other) {
    const bool has_hashes = !one.sha256.empty() && !other.sha256.empty();
    return one.scale == other.scale && (has_hashes ? one.sha256 == other.sha256 : one.file == other.file);
  });
}

std::string file_sha256(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const std::span<const std::byte> bytes = mapped.bytes();
  return sha256({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

std::string FileHashes::of(const std::filesystem::path& file) {
  // Before the bytes are read: a file that changes meanwhile has another version by then.
  std::error_code error;
  const FileVersion version = file_version(file, error);
  if (!error) {
    const std::lock_guard lock(mutex_);
    if (const std::string* known = known_.find(version)) return *known;
  }
  std::string hash = file_sha256(file);
  log_debug("{}: SHA-256 {}", file.string(), hash);
  const std::lock_guard lock(mutex_);
  return error ? hash : known_.insert(version, std::move(hash));
}

AdapterFiles::AdapterFiles(const Family& family, std::shared_ptr<FileHashes> hashes)
    : list_targets_(lister_of(family)), hashes_(hashes ? std::move(hashes) : std::make_shared<FileHashes>()) {}

const AdapterTargets& AdapterFiles::targets() {
  std::call_once(listing_, [this] { targets_.emplace(list_targets_()); });
  return *targets_;
}

AdapterFiles::Reading AdapterFiles::read_now(const std::string& path) {
  Reading made;
  try {
    try {
      made.file.sha256 = hashes_->of(path);
      made.file.adapter = std::make_shared<const Adapter>(read_adapter(*open_tensor_file(path), targets()));
      require_applicable(*made.file.adapter, targets());
      log_info("{}", made.file.adapter->report.summary());
    } catch (const Error& error) {
      // The request names a file that the model cannot have: nothing is wrong with the model itself.
      fail(error.kind() == ErrorKind::model ? ErrorKind::invalid_input : error.kind(), "{}", error.what());
    }
  } catch (...) {
    made.failure = std::current_exception();
  }
  return made;
}

AdapterFile AdapterFiles::read(const AdapterUse& use) {
  require(!use.file.empty(), ErrorKind::invalid_input, "lora '{}' names no file", use.name);
  std::error_code error;
  const Key key{std::filesystem::absolute(use.file).string(), file_version(use.file, error)};
  require(!error, ErrorKind::invalid_input, "lora '{}': {} cannot be read: {}", use.name, use.file, error.message());
  std::promise<Reading> promise;
  std::shared_future<Reading> result;
  bool is_first = false;
  {
    const std::lock_guard lock(mutex_);
    if (const AdapterFile* const known = kept_.find(key)) {
      require_same_file(use, known->sha256);
      return *known;
    }
    const auto [place, is_new] = under_way_.try_emplace(key);
    if (is_new) place->second = promise.get_future().share();
    result = place->second;
    is_first = is_new;
  }
  if (is_first) {
    Reading made = read_now(use.file);
    const std::lock_guard lock(mutex_);
    if (!made.failure) kept_.insert(key, made.file, size_in_bytes(*made.file.adapter));
    under_way_.erase(key);
    promise.set_value(std::move(made));
  }
  const Reading& reading = result.get();
  // Another file than is wanted may be none of an adapter at all.
  if (!reading.file.sha256.empty()) require_same_file(use, reading.file.sha256);
  if (reading.failure) std::rethrow_exception(reading.failure);
  return reading.file;
}

}  // namespace nostos
