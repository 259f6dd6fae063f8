// Implements reading PEFT's configuration of an adapter.
#include "adapters/peft_metadata.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace nostos {
namespace {

constexpr int64_t kMostRank = 1 << 20;

/// \return whether PEFT's pattern `key` means `module`: it is a regular expression for the end of the name.
bool names_module(std::string_view key, std::string_view module) {
  if (key.starts_with('^')) return key.substr(1) == module;
  return module == key ||
         (module.size() > key.size() && module.ends_with(key) && module[module.size() - key.size() - 1] == '.');
}

template <class Value>
Value by_module(const std::map<std::string, Value>& patterns, std::string_view module, Value otherwise) {
  for (const auto& [key, value] : patterns)
    if (names_module(key, module)) return value;
  return otherwise;
}

/// \return a pattern without what is only a regular expression's way to write a name.
std::string plain_pattern(const JsonConfig& patterns, const std::string& pattern) {
  std::string plain;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size() && pattern[i + 1] == '.') continue;
    if (c == '$' && i + 1 == pattern.size()) continue;
    const bool is_start = c == '^' && i == 0;
    if (!is_start && std::string_view("\\^$*+?()[]{}|").find(c) != std::string_view::npos)
      patterns.refuse(pattern, "is a pattern; nostos reads only names of modules");
    plain += c;
  }
  return plain;
}

PeftConfig parse_part(const JsonConfig& config, const std::string& prefix) {
  PeftConfig peft;
  peft.rank = config.integer_or(prefix + "r", 0, 0, kMostRank);
  const std::string lora_alpha = prefix + "lora_alpha";  // "alpha" with LoKr and LoHa
  peft.alpha = config.number_or(config.has(lora_alpha) ? lora_alpha : prefix + "alpha", static_cast<double>(peft.rank));
  peft.is_rank_stabilised = config.boolean_or(prefix + "use_rslora", false);
  if (const auto patterns = config.object(prefix + "alpha_pattern"))
    for (const std::string& key : patterns->fields())
      peft.alphas[plain_pattern(*patterns, key)] = patterns->number(key);
  if (const auto patterns = config.object(prefix + "rank_pattern"))
    for (const std::string& key : patterns->fields())
      peft.ranks[plain_pattern(*patterns, key)] = patterns->integer(key, 1, kMostRank);
  return peft;
}

}  // namespace

double PeftConfig::alpha_of(std::string_view module) const { return by_module(alphas, module, alpha); }
int64_t PeftConfig::rank_of(std::string_view module) const { return by_module(ranks, module, rank); }

PeftMetadata parse_peft_metadata(const JsonConfig& config) {
  PeftMetadata parts;
  for (const std::string part : {"", "transformer", "text_encoder"}) {
    const std::string prefix = part.empty() ? "" : part + ".";
    if (config.has(prefix + "lora_alpha") || config.has(prefix + "alpha") || config.has(prefix + "r"))
      parts[part] = parse_part(config, prefix);
  }
  return parts;
}

PeftMetadata read_peft_metadata(const TensorFile& file) {
  const std::string name = file.path().string();
  const std::map<std::string, std::string>& metadata = file.metadata();
  if (const auto found = metadata.find("lora_adapter_metadata"); found != metadata.end())
    return parse_peft_metadata(JsonConfig::parse(found->second, name + ": metadata 'lora_adapter_metadata'"));
  if (const auto found = metadata.find("adapter.lora.alpha"); found != metadata.end()) {  // GGUF
    PeftConfig peft;
    const std::string& text = found->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), peft.alpha);
    if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(peft.alpha))
      fail(ErrorKind::model, "{}: metadata 'adapter.lora.alpha' is '{:.60}', must be a number", name, text);
    return {{"", peft}};
  }
  if (file.path().stem() == "adapter_model")
    if (const auto config = JsonConfig::load_if_there(file.path().parent_path() / "adapter_config.json"))
      return parse_peft_metadata(*config);
  return {};
}

}  // namespace nostos
