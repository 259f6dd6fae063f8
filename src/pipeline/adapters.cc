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

/// \return what changes when somebody puts another file in the place of the use's.
/// \throws Error invalid_input if it is not there
std::string version_of(const AdapterUse& use) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(use.file, error);
  require(!error, ErrorKind::invalid_input, "lora '{}': {} cannot be read: {}", use.name, use.file, error.message());
  const auto changed = std::filesystem::last_write_time(use.file, error).time_since_epoch().count();
  return fmt::format("{}:{}:{}", std::filesystem::absolute(use.file).string(), bytes, changed);
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

AdapterTargets targets_of(const Family& family) {
  std::vector<AdapterPart> parts;
  for (const ModelPart* part : family.parts())
    if (part->can_stream()) parts.push_back(part->targets());  // what adapters change has blocks: no VAE
  return {std::string(family.name()), std::move(parts)};
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

AdapterFiles::AdapterFiles(const Family& family) : targets_(targets_of(family)) {}

AdapterFile AdapterFiles::read(const AdapterUse& use) {
  const std::string key = version_of(use);
  {
    const std::lock_guard lock(mutex_);
    if (const AdapterFile* const known = kept_.find(key)) {
      require_same_file(use, known->sha256);
      return *known;
    }
  }
  AdapterFile made;
  try {
    made.sha256 = file_sha256(use.file);
    require_same_file(use, made.sha256);  // another file may be none of an adapter at all
    made.adapter = std::make_shared<const Adapter>(read_adapter(*open_tensor_file(use.file), targets_));
    require_applicable(*made.adapter, targets_);
  } catch (const Error& error) {
    // The request names a file that the model cannot have: nothing is wrong with the model itself.
    fail(error.kind() == ErrorKind::model ? ErrorKind::invalid_input : error.kind(), "{}", error.what());
  }
  log_info("{}", made.adapter->report.summary());
  const std::lock_guard lock(mutex_);
  return kept_.insert(key, made, size_in_bytes(*made.adapter));
}

}  // namespace nostos
