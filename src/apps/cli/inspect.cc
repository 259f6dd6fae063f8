// Owns `nostos inspect`: what a model folder holds.
#include <fmt/format.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/cli/commands.h"
#include "apps/cli/embedded_model.h"
#include "apps/cli/flags.h"
#include "apps/cli/standard_streams.h"
#include "base/error.h"
#include "base/log.h"
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
  std::string model_path;
  bool json = false;
};

/// What one folder of the model holds. Parts without weights (tokenizer, scheduler) have zeros.
struct Part {
  std::string name;
  std::string class_name;
  std::optional<JsonConfig> config;
  size_t tensors = 0;
  int64_t parameters = 0;
  size_t bytes = 0;
  std::map<std::string, size_t> dtypes;  ///< tensors of each
};

std::optional<JsonConfig> find_config(const Path& folder) {
  for (const char* file : {"config.json", "scheduler_config.json", "tokenizer_config.json"}) {
    if (std::optional<JsonConfig> config = JsonConfig::load_if_there(folder / file)) return config;
  }
  return std::nullopt;
}

/// Reads a part that drawings need. \throws Error model
Part read_part(const Path& model, const std::string& part_name, const std::string& class_name,
               const std::string& variant) {
  constexpr std::array<std::string_view, 3> kWithWeights{"transformer", "text_encoder", "vae"};
  Part part;
  part.name = part_name;
  part.class_name = class_name;
  part.config = find_config(model / part_name);
  if (std::ranges::find(kWithWeights, part_name) == kWithWeights.end()) return part;
  const WeightStore store = WeightStore::open(model / part_name, variant);
  for (const std::string& note : store.notes()) log_message(LogLevel::warning, note);
  for (const auto& [tensor, info] : store.list()) {
    ++part.tensors;
    part.parameters += info.elements();
    part.bytes += info.end - info.begin;
    ++part.dtypes[info.dtype_name];
  }
  return part;
}

/// \return the class of a part that model_index.json lists as [library, class], "" if it lists none.
std::string class_of(const JsonConfig& index, const std::string& field) {
  if (!index.has(field)) return "";
  const std::vector<std::string> library_and_class = index.strings(field);
  require(library_and_class.size() == 2, ErrorKind::model, "{}: {} must be [library, class]", index.name(), field);
  return library_and_class[1];
}

/// \return the parts that model_index.json lists. A part that no drawing needs and that cannot be read is left out with
/// a warning.
std::vector<Part> read_parts(const Path& model, const JsonConfig& index, const std::string& variant) {
  constexpr std::array<std::string_view, 5> kNeeded{"transformer", "text_encoder", "vae", "tokenizer", "scheduler"};
  std::vector<Part> parts;
  for (const std::string& field : index.fields()) {
    std::error_code ignored;
    // A link to nothing is there, too: reading it says where it leads.
    if (field.starts_with("_") || !exists(symlink_status(model / field, ignored))) continue;
    try {
      parts.push_back(read_part(model, field, class_of(index, field), variant));
    } catch (const Error& error) {
      if (std::ranges::find(kNeeded, field) != kNeeded.end()) throw;
      log_warning("{}, which no drawing needs: {}", field, error.what());
    }
  }
  return parts;
}

ordered_json parsed(const std::optional<JsonConfig>& config) {
  return config ? ordered_json::parse(config->dump()) : ordered_json();
}

void print_json(const Path& model, const std::string& class_name, const std::vector<Part>& parts,
                const std::optional<JsonConfig>& generation) {
  ordered_json list = ordered_json::array();
  int64_t parameters = 0;
  size_t bytes = 0;
  for (const Part& part : parts) {
    parameters += part.parameters;
    bytes += part.bytes;
    list.push_back({{"name", part.name},
                    {"class", part.class_name},
                    {"tensors", part.tensors},
                    {"parameters", part.parameters},
                    {"dtypes", part.dtypes},
                    {"bytes", part.bytes},
                    {"config", parsed(part.config)}});
  }
  print_output("{}\n", json_pretty({{"path", model.string()},
                                    {"class", class_name},
                                    {"parameters", parameters},
                                    {"bytes", bytes},
                                    {"parts", list},
                                    {"generation_config", parsed(generation)}}));
}

void print_text(const Path& model, const std::string& class_name, const std::vector<Part>& parts,
                const std::optional<JsonConfig>& generation) {
  print_output("{} in {}\n\n{:<14}{:<34}{:>8}{:>18}{:>12}  {}\n", class_name, model.string(), "part", "class",
               "tensors", "parameters", "MB", "tensors by dtype");
  for (const Part& part : parts) {
    std::string dtypes;
    for (const auto& [dtype, count] : part.dtypes)
      dtypes += fmt::format("{}{} {}", dtypes.empty() ? "" : ", ", count, dtype);
    print_output("{:<14}{:<34}{:>8}{:>18}{:>12.1f}  {}\n", part.name, part.class_name, part.tensors, part.parameters,
                 static_cast<double>(part.bytes) / 1e6, dtypes);
  }
  for (const Part& part : parts) {
    // A tokenizer's config is mostly its chat template; --json has it.
    if (part.config && part.name != "tokenizer") print_output("\n{} config: {}\n", part.name, part.config->dump());
  }
  if (generation) print_output("\ngeneration config: {}\n", generation->dump());
}

void inspect(CLI::App& command, const InspectFlags& flags) {
  apply_common_flags(command, flags.common);
  const Path model = find_model(flags.model.named(flags.model_path));
  const JsonConfig index = JsonConfig::load(model / "model_index.json");
  const std::string class_name = index.string("_class_name");
  const std::vector<Part> parts = read_parts(model, index, flags.model.variant);
  const std::optional<JsonConfig> generation = JsonConfig::load_if_there(model / "generation_config.json");
  (flags.json ? print_json : print_text)(model, class_name, parts, generation);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show a model's parts, parameters, dtypes, bytes and configs");
  auto flags = std::make_shared<InspectFlags>();
  command->add_option("--model-path", flags->model_path,
                      "model folder or Hugging Face name; without it the embedded model");
  add_model_flags(*command, flags->model);
  command->add_flag("--json", flags->json, "write one JSON object to standard output");
  add_common_flags(*command, flags->common);
  command->callback([command, flags] { inspect(*command, *flags); });
}

}  // namespace nostos::cli
