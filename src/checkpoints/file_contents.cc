// Implements reading what a file holds.
#include "checkpoints/file_contents.h"

#include <algorithm>
#include <memory>

#include "adapters/adapter_key.h"
#include "base/error.h"
#include "io/gguf.h"
#include "text/tokenizer.h"

namespace nostos {
namespace {

using Path = std::filesystem::path;

/// Compares a part's tensors with the config, and keeps what is amiss instead of throwing it.
class CheckingSource final : public StoreSource {
 public:
  CheckingSource(std::shared_ptr<const WeightStore> store, const CheckpointNames& names)
      : StoreSource(std::move(store), names, Mode::check_only) {}
  void finish() override {}
};

/// \return why the part cannot be used.
std::vector<std::string> problems_of(const PartFiles& files, const PartType& type, const JsonConfig& config) {
  Context ctx({}, 1);
  const auto source = std::make_shared<CheckingSource>(files.store(), files.names());
  WeightBuilder builder(ctx, source, DType::f32);
  type.walk(config, builder);
  return source->problems();
}

/// Names the part's tensors among those of the file.
void claim_tensors(FileContents& contents, const PartTensors& tensors, const CheckpointNames& names, size_t part) {
  const auto claim = [&](const std::string& tensor, TensorRole role) -> FileTensorFacts* {
    const auto found = std::ranges::lower_bound(contents.tensors, tensor, {}, &FileTensorFacts::name);
    if (found == contents.tensors.end() || found->name != tensor || found->role == TensorRole::scale) return nullptr;
    found->role = role;
    found->part = part;
    return &*found;
  };
  for (const auto& [name, shape] : tensors.shapes) {
    for (const TensorRows& rows : names.find(name)) {
      FileTensorFacts* const found = claim(rows.name, TensorRole::weight);
      if (found != nullptr && (found->names.empty() || found->names.back() != name)) found->names.push_back(name);
    }
  }
  for (const std::string& name : tensors.optional) {
    claim(name, TensorRole::leftover);
    for (const TensorRows& rows : names.find(name)) claim(rows.name, TensorRole::leftover);
  }
  for (const std::string_view name : names.layout->leftovers)
    claim(names.prefix + std::string(name), TensorRole::leftover);
}

/// Takes all tensors behind the prefix for the part's, where no config says which it has.
void claim_all(FileContents& contents, const std::string& prefix, size_t part) {
  for (FileTensorFacts& tensor : contents.tensors) {
    if (tensor.role != TensorRole::unknown || !tensor.name.starts_with(prefix)) continue;
    tensor.role = TensorRole::weight;
    tensor.part = part;
  }
}

void read_part(FileContents& contents, const PartType& type, FamilyOptions options) {
  options.files.*type.kind->place = contents.path;
  const PartFiles files(options, *type.kind);
  FilePart part{.type = &type,
                .layout = files.names().layout->title,
                .prefix = files.names().prefix,
                .title = std::string(type.kind->name),
                .config = {},
                .problems = {}};
  try {
    part.config = files.find_config();
    part.title = type.title(part.config->json);
    claim_tensors(contents, list_tensors(type, part.config->json), files.names(), contents.parts.size());
    part.problems = problems_of(files, type, part.config->json);
  } catch (const Error& error) {  // e.g. dimensions of which no config can be made: the rest can be shown
    part.problems.emplace_back(error.what());
    claim_all(contents, part.prefix, contents.parts.size());
  }
  contents.parts.push_back(std::move(part));
}

void read_tensors(FileContents& contents, const TensorFile& file) {
  const LayerFormats formats(file);
  for (const auto& [name, info] : file.tensors()) {
    TensorFormat format = describe_format(file, formats, name);
    contents.tensors.push_back({name, info.extents, std::move(format.name), info.end - info.begin, format.scale_bytes,
                                format.is_scale ? TensorRole::scale : TensorRole::unknown});
  }
}

}  // namespace

std::string_view name(TensorRole role) {
  switch (role) {
    case TensorRole::weight:
      return "weight";
    case TensorRole::scale:
      return "scale";
    case TensorRole::leftover:
      return "leftover";
    case TensorRole::unknown:
      break;
  }
  return "unknown";
}

int64_t FileTensorFacts::numbers() const {
  int64_t product = 1;
  for (const int64_t extent : extents) product *= extent;
  return product;
}

std::string_view FileContents::kind() const {
  if (parts.size() > 1) return "all-in-one";
  if (parts.empty()) return is_adapter ? "adapter" : "unknown";
  const std::string_view folder = parts.front().type->kind->folder;
  if (folder == "controlnet") return "control network";
  return folder == "vae" ? "VAE" : folder == "text_encoder" ? "text encoder" : folder;
}

std::vector<FormatGroup> FileContents::groups(std::optional<size_t> part) const {
  std::vector<FormatGroup> groups;
  for (const FileTensorFacts& tensor : tensors) {
    const std::optional<size_t> owner = tensor.role == TensorRole::weight ? tensor.part : std::nullopt;
    if (tensor.role == TensorRole::scale || owner != part) continue;
    add_to_group(groups, {tensor.format, 1, tensor.numbers(), tensor.bytes + tensor.scale_bytes});
  }
  sort_groups(groups);
  return groups;
}

FileContents read_contents(const Path& path, const Path& model_folder) {
  FamilyOptions options;
  options.files.model = model_folder;
  const TensorFile& file = *options.stores->open(path)->files().front();
  FileContents contents;
  contents.path = path;
  const auto* const gguf = dynamic_cast<const GgufFile*>(&file);
  contents.format = gguf == nullptr ? "safetensors" : fmt::format("GGUF {}", gguf->header().version);
  contents.bytes = std::filesystem::file_size(path);
  contents.metadata = file.metadata();
  contents.has_tokenizer = Tokenizer::is_there(path);
  read_tensors(contents, file);
  for (const PartType& type : part_types())
    if (holds_part(options, path, *type.kind)) read_part(contents, type, options);
  contents.is_adapter = contents.parts.empty() && std::ranges::any_of(contents.tensors, [](const auto& tensor) {
                          return parse_adapter_key(tensor.name).has_value();
                        });
  return contents;
}

}  // namespace nostos
