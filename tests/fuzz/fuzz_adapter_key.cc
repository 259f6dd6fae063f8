// Fuzzes an adapter's keys and PEFT's metadata: a key is taken for a module's tensor and looked up, or for none;
// metadata are refused as a damaged model, or give numbers.
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "adapters/adapter_key.h"
#include "adapters/peft_metadata.h"
#include "adapters/targets.h"
#include "base/error.h"
#include "models/zimage/file_layouts.h"

namespace {

using namespace nostos;

const AdapterTargets& targets() {
  static const AdapterTargets made(
      "fuzz", {{"transformer",
                {{"layers.0.attention.to_q.weight", {4, 4}},
                 {"layers.0.attention.to_k.weight", {4, 4}},
                 {"layers.0.attention.to_v.weight", {4, 4}},
                 {"layers.0.attention_norm1.weight", {4}},
                 {"x_pad_token", {1, 4}}},
                zimage::file_layouts()},
               {std::string(kTextEncoderPart), {{"layers.0.self_attn.q_proj.weight", {6, 4}}}, {}}});
  return made;
}

void try_key(std::string_view text) {
  const std::optional<AdapterKey> key = parse_adapter_key(text);
  if (!key) return;
  if (key->module.empty() || key->module.find('.') != std::string::npos) std::abort();
  const ModuleMatch match = targets().find(key->module);
  if (match.found() && (match.is_missing_layer || match.name_length > key->module.size())) std::abort();
}

void try_metadata(std::string_view text) {
  try {
    for (const auto& [part, peft] : parse_peft_metadata(JsonConfig::parse(text, "fuzz")))
      if (!std::isfinite(peft.alpha_of("layers.0.attention.to_q")) || peft.rank_of("to_q") < 0) std::abort();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try_key(text);
  try_metadata(text);
  return 0;
}
