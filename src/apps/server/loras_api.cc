// Implements the lists of LoRAs: our own, and A1111's.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/server/lora_folder.h"
#include "apps/server/state.h"

namespace nostos::server {
namespace {

using nlohmann::ordered_json;

std::vector<LoraFile> files_of(const LoadedModel& model) {
  return model.limits.loras == nullptr ? std::vector<LoraFile>() : model.limits.loras->list();
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
    list.push_back({{"name", file.name},
                    {"alias", file.alias()},
                    {"path", file.path.string()},
                    {"metadata", model->limits.loras->metadata(file)}});
  call.responder->reply(json_response(200, list));
}

}  // namespace nostos::server
