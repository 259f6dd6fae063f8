// Implements the lists of LoRAs: our own, and A1111's.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/server/lora_folder.h"
#include "apps/server/state.h"
#include "base/error.h"
#include "io/tensor_file.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxMetadataBytes = 4096;  // of one value: longer ones are lists of training pictures and their tags

std::vector<LoraFile> files_of(const LoadedModel& model) {
  return model.limits.loras == nullptr ? std::vector<LoraFile>() : model.limits.loras->list();
}

/// \return what a file says of itself, nothing for one that cannot be read.
ordered_json metadata_of(const LoraFile& file) {
  ordered_json json = ordered_json::object();
  try {
    const auto opened = open_tensor_file(file.path);
    for (const auto& [name, text] : opened->metadata())
      if (text.size() <= kMaxMetadataBytes) json[name] = text;
  } catch (const Error&) {
    // Whoever uses it is told.
  }
  return json;
}

ordered_json text_or_null(const std::string& text) { return text.empty() ? ordered_json() : ordered_json(text); }

}  // namespace

void list_loras(const Call& call) {
  const auto model = call.state.model();
  ordered_json data = ordered_json::array();
  for (const LoraFile& file : files_of(*model)) {
    const LoraFacts facts = model->limits.loras->known_facts(file).value_or(LoraFacts());
    data.push_back({{"name", file.name},
                    {"object", "lora"},
                    {"bytes", file.bytes},
                    {"sha256", text_or_null(facts.sha256)},
                    {"summary", text_or_null(facts.summary)},
                    {"error", text_or_null(facts.error)}});
  }
  call.responder->reply(json_response(200, {{"object", "list"}, {"data", std::move(data)}}));
}

void a1111_loras(const Call& call) {
  const auto model = call.state.model();
  ordered_json list = ordered_json::array();
  for (const LoraFile& file : files_of(*model))
    list.push_back(
        {{"name", file.name}, {"alias", file.alias()}, {"path", file.path.string()}, {"metadata", metadata_of(file)}});
  call.responder->reply(json_response(200, list));
}

}  // namespace nostos::server
