// Tries an adapter file with models.
#include "checkpoints/adapter_contents.h"

#include <memory>

#include "base/error.h"
#include "checkpoints/part_types.h"
#include "families/registry.h"
#include "families/shared_parts.h"

namespace nostos {
namespace {

/// \return whether the model's files have a text encoder.
bool has_text_encoder(const FamilyOptions& options) {
  const ModelFiles& files = options.files;
  if (!files.text_encoder.empty() || !files.folder().empty()) return true;
  return !files.model.empty() && holds_part(options, files.model, kTextEncoder);
}

}  // namespace

AdapterTargets adapter_targets(const ModelFiles& files, const std::string& model_name) {
  const FamilyOptions options{.files = files, .synthetic = true};  // of folders the configs are enough
  std::vector<AdapterPart> parts;
  const auto add = [&](const PartKind& kind) {
    const JsonConfig config = PartFiles(options, kind).config();
    parts.push_back({std::string(kind.folder), list_tensors(part_type(kind), config).shapes, kind.layouts()});
  };
  add(transformer_kind(options));
  if (has_text_encoder(options)) add(kTextEncoder);
  return AdapterTargets(model_name, std::move(parts));
}

std::vector<AdapterFit> try_adapter(const std::filesystem::path& path, std::span<const NamedModel> models) {
  const std::unique_ptr<const TensorFile> file = open_tensor_file(path);
  std::vector<AdapterFit> fits;
  for (const NamedModel& model : models) {
    const AdapterTargets targets = adapter_targets(model.files, model.name);
    AdapterFit& fit = fits.emplace_back();
    fit.model = model.name;
    try {
      fit.report = read_adapter(*file, targets).report;
    } catch (const Error& error) {
      fit.problem = error.what();
    }
  }
  return fits;
}

}  // namespace nostos
