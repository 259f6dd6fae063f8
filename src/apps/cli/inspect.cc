// Owns `nostos inspect`: what a model folder, or a file of weights, holds.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "api/model_places.h"
#include "apps/cli/commands.h"
#include "apps/cli/flags.h"
#include "apps/cli/inspected_file.h"
#include "apps/cli/standard_streams.h"
#include "base/error.h"
#include "base/log.h"
#include "base/terminal.h"
#include "io/json_config.h"
#include "io/json_text.h"
#include "io/weight_store.h"

namespace nostos::cli {
namespace {

using nlohmann::ordered_json;
using Path = std::filesystem::path;

struct InspectFlags {
  CommonFlags common;
  ModelFlags model;
  std::string file, model_path;
  bool layers = false, json = false;
};

/// What one folder of the model holds. Parts without weights (tokenizer, scheduler) have zeros.
struct Part {
  std::string name;
  std::string class_name;
  std::optional<JsonConfig> config;
  FolderWeights weights;
};

/// A model's folder, without the parts that have files of their own.
struct Folder {
  Path path;
  std::string class_name;
  std::vector<Part> parts;
  std::optional<JsonConfig> generation_config;
};

std::optional<JsonConfig> find_config(const Path& folder) {
  for (const char* file : {"config.json", "scheduler_config.json", "tokenizer_config.json"}) {
    if (std::optional<JsonConfig> config = JsonConfig::load_if_there(folder / file)) return config;
  }
  return std::nullopt;
}

/// Reads a part that drawings need. \throws Error model
Part read_part(const Path& folder, const std::string& part_name, const std::string& class_name,
               const std::string& variant) {
  constexpr std::array<std::string_view, 4> kWithWeights{"transformer", "text_encoder", "vae", "controlnet"};
  Part part;
  part.name = part_name;
  part.class_name = class_name;
  part.config = find_config(folder);
  if (std::ranges::find(kWithWeights, part_name) == kWithWeights.end()) return part;
  const WeightStore store = WeightStore::open(folder, variant);
  for (const std::string& note : store.notes()) log_message(LogLevel::warning, note);
  part.weights = count_weights(store);
  return part;
}

/// \return the class of a part that model_index.json lists as [library, class], "" if it lists none.
std::string class_of(const JsonConfig& index, const std::string& field) {
  if (!index.has(field)) return "";
  const std::vector<std::string> library_and_class = index.strings(field);
  require(library_and_class.size() == 2, ErrorKind::model, "{}: {} must be [library, class]", index.name(), field);
  return library_and_class[1];
}

/// \return the place that the user gives the part, "" for the model's own.
std::string own_place(const PartPaths& places, std::string_view part) {
  if (part == "transformer") return places.transformer;
  if (part == "text_encoder") return places.text_encoder;
  if (part == "vae") return places.vae;
  if (part == "controlnet") return places.controlnet;
  return part == "tokenizer" ? places.tokenizer : "";
}

/// \return the parts that model_index.json lists. A part that no drawing needs and that cannot be read is left out with
/// a warning.
Folder read_folder(const Path& model, const ModelFlags& flags) {
  constexpr std::array<std::string_view, 5> kNeeded{"transformer", "text_encoder", "vae", "tokenizer", "scheduler"};
  const JsonConfig index = JsonConfig::load(model / "model_index.json");
  Folder folder{model, index.string("_class_name"), {}, {}};
  for (const std::string& field : index.fields()) {
    std::error_code ignored;
    const std::string own = own_place(flags.parts, field);
    const Path place = own.empty() ? model / field : Path(own);
    // A link to nothing is there, too: reading it says where it leads.
    if (field.starts_with("_") || !exists(symlink_status(place, ignored)) || is_regular_file(place, ignored)) continue;
    try {
      folder.parts.push_back(read_part(place, field, class_of(index, field), flags.variant));
    } catch (const Error& error) {
      if (std::ranges::find(kNeeded, field) != kNeeded.end()) throw;
      log_warning("{}, which no drawing needs: {}", field, error.what());
    }
  }
  folder.generation_config = JsonConfig::load_if_there(model / "generation_config.json");
  return folder;
}

ordered_json folder_json(const Folder& folder) {
  ordered_json list = ordered_json::array();
  int64_t parameters = 0;
  size_t bytes = 0;
  for (const Part& part : folder.parts) {
    parameters += part.weights.parameters;
    bytes += part.weights.bytes;
    list.push_back({{"name", part.name},
                    {"class", part.class_name},
                    {"tensors", part.weights.tensors},
                    {"parameters", part.weights.parameters},
                    {"dtypes", part.weights.dtypes},
                    {"formats", groups_json(part.weights.formats)},
                    {"bytes", part.weights.bytes},
                    {"config", parsed(part.config)}});
  }
  return {{"path", folder.path.string()},
          {"class", folder.class_name},
          {"parameters", parameters},
          {"bytes", bytes},
          {"parts", list},
          {"generation_config", parsed(folder.generation_config)}};
}

std::string folder_text(const Folder& folder) {
  std::string text;
  const auto out = std::back_inserter(text);
  fmt::format_to(out, "{} in {}\n\n{:<14}{:<34}{:>8}{:>18}{:>12}  {}\n", folder.class_name, folder.path.string(),
                 "part", "class", "tensors", "parameters", "MB", "tensors by format");
  for (const Part& part : folder.parts) {
    fmt::format_to(out, "{:<14}{:<34}{:>8}{:>18}{:>12.1f}  {}\n", part.name, part.class_name, part.weights.tensors,
                   part.weights.parameters, static_cast<double>(part.weights.bytes) / 1e6,
                   groups_line(part.weights.formats));
  }
  for (const Part& part : folder.parts) {
    // A tokenizer's config is mostly its chat template; --json has it.
    if (part.config && part.name != "tokenizer")
      fmt::format_to(out, "\n{} config: {}\n", part.name, part.config->dump());
  }
  if (folder.generation_config) fmt::format_to(out, "\ngeneration config: {}\n", folder.generation_config->dump());
  return text;
}

/// \return the models that come with nostos.
std::vector<NamedModel> own_models() {
  std::vector<NamedModel> models;
  for (const auto& entry : std::filesystem::directory_iterator(models_folder()))
    if (exists(entry.path() / "transformer" / "config.json"))
      models.push_back({entry.path().filename().string(), entry.path()});
  std::ranges::sort(models, {}, &NamedModel::name);
  return models;
}

/// What the user asks about.
struct Asked {
  std::optional<Folder> folder;
  std::vector<InspectedFile> files;
};

bool is_file(const Path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

/// \param models that the file is tried with if it is an adapter
InspectedFile read_file_contents(const Path& path, const Path& model_folder, const std::vector<NamedModel>& models) {
  InspectedFile file{read_contents(path, model_folder), {}};
  if (file.contents.is_adapter) file.fits = try_adapter(path, models);
  return file;
}

/// Reads a file, or the model with its parts in places of their own.
Asked read_asked(const InspectFlags& flags) {
  const PartPaths& parts = flags.model.parts;
  const std::string named = flags.model.named(flags.model_path);
  const bool names_a_model = !named.empty() || parts != PartPaths{};
  if (names_a_model && !flags.file.empty()) {
    const ModelFiles files = model_files(named, parts);
    InspectedFile file = read_file_contents(flags.file, {}, {{shown_place(files), files}});
    require(file.contents.is_adapter, ErrorKind::invalid_input,
            "{} is no adapter: give --model-path and the places of parts beside an adapter alone", flags.file);
    return {{}, {std::move(file)}};
  }
  const ModelFiles files = model_files(flags.file.empty() ? named : flags.file, parts);
  Asked asked;
  if (!files.folder().empty()) asked.folder = read_folder(files.model, flags.model);
  for (const Path& place :
       {files.model, files.transformer, files.text_encoder, files.vae, files.tokenizer, files.controlnet})
    if (is_file(place)) asked.files.push_back(read_file_contents(place, files.folder(), own_models()));
  return asked;
}

void inspect(CLI::App& command, const InspectFlags& flags) {
  apply_common_flags(command, flags.common);
  const Asked asked = read_asked(flags);
  if (flags.json) {
    ordered_json json = asked.folder ? folder_json(*asked.folder) : ordered_json::object();
    if (!asked.files.empty()) json["files"] = ordered_json::array();
    for (const InspectedFile& file : asked.files) json["files"].push_back(file_json(file));
    print_output("{}\n", json_pretty(json));
    return;
  }
  if (asked.folder) print_output("{}", without_controls(folder_text(*asked.folder)));
  for (const InspectedFile& file : asked.files) {
    const bool is_first = !asked.folder && &file == &asked.files.front();
    print_output("{}{}", is_first ? "" : "\n", without_controls(file_text(file, flags.layers)));
  }
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show what a model, a file of weights or an adapter holds, and how it is stored");
  auto flags = std::make_shared<InspectFlags>();
  command->add_option("file", flags->file, "adapter, or what --model-path takes")->type_name("FILE");
  command->add_option("--model-path", flags->model_path,
                      model_path_help("and without FILE the embedded model; beside FILE the model that this adapter is "
                                      "to fit"));
  add_model_flags(*command, flags->model);
  command->add_flag("--layers", flags->layers, "list every tensor of a file");
  command->add_flag("--json", flags->json, "write one JSON object with all of it to standard output");
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { inspect(*command, *flags); });
}

}  // namespace nostos::cli
