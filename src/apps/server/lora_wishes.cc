// Implements the reading of LoRAs' names and scales.
#include "apps/server/lora_wishes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/server/api_error.h"
#include "apps/server/fields.h"
#include "pipeline/request.h"

namespace nostos::server {
namespace {

constexpr size_t kMaxNameBytes = 1000;
constexpr std::string_view kTag = "<lora:";
constexpr std::string_view kSpace = " \t\r\n";

void check_count(size_t count, const char* field) {
  if (count > kMaxAdapters)
    refuse_field(field, "out_of_range", "{} names {} LoRAs; at most {} are applied", field, count, kMaxAdapters);
}

/// \return where the next tag begins, in letters of any case, or npos.
size_t next_tag(std::string_view text, size_t from) {
  const auto is_same = [](unsigned char a, unsigned char b) { return std::tolower(a) == b; };
  const auto found =
      std::search(text.begin() + static_cast<std::ptrdiff_t>(from), text.end(), kTag.begin(), kTag.end(), is_same);
  return found == text.end() ? std::string_view::npos : static_cast<size_t>(found - text.begin());
}

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

/// \return the number that a part of a tag is. \throws ApiError 400
double strength(std::string_view part, std::string_view tag) {
  std::string_view text = trimmed(part);
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  double number = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  // NaN fails the comparison.
  if (error != std::errc() || stop != text.data() + text.size() || !(std::abs(number) <= kMaxAdapterScale))
    refuse_field("prompt", "out_of_range", "prompt has {}: its strength must be a number from {} to {}",
                 tag.substr(0, 100), -kMaxAdapterScale, kMaxAdapterScale);
  return number;
}

/// \return what stands between < and > as a wish. \param tag with both
LoraWish wish_of(std::string_view tag) {
  std::string_view rest = tag.substr(kTag.size(), tag.size() - kTag.size() - 1);
  const auto take_part = [&rest] {
    const size_t end = std::min(rest.find(':'), rest.size());
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    return part;
  };
  LoraWish wish{.field = "prompt", .name = std::string(trimmed(take_part()))};
  std::optional<double> text_encoder, transformer, named_text_encoder, named_transformer;
  for (size_t place = 0; !rest.empty();) {
    const std::string_view part = take_part();
    if (const size_t equals = part.find('='); equals != std::string_view::npos) {
      const std::string_view key = trimmed(part.substr(0, equals));
      if (key == "te") named_text_encoder = strength(part.substr(equals + 1), tag);
      if (key == "unet") named_transformer = strength(part.substr(equals + 1), tag);
      continue;
    }
    if (place == 0) text_encoder = strength(part, tag);
    if (place == 1) transformer = strength(part, tag);
    ++place;
  }
  for (const auto& given : {named_transformer, transformer, named_text_encoder, text_encoder}) {
    if (!given) continue;
    wish.scale = *given;
    break;
  }
  return wish;
}

/// Adds what stands between two tags, so that no two spaces meet where a tag was.
void add_text(std::string& prompt, std::string_view text, bool follows_tag) {
  const auto is_space = [](char c) { return kSpace.find(c) != std::string_view::npos; };
  if (follows_tag && (prompt.empty() || is_space(prompt.back())))
    text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  prompt += text;
}

}  // namespace

std::vector<LoraWish> parse_loras(const nlohmann::json& loras) {
  std::vector<LoraWish> wishes;
  if (loras.is_null()) return wishes;
  if (!loras.is_array())
    refuse_field("loras", "invalid_type", "loras must be a list, such as [{{\"name\": \"detail\", \"scale\": 0.8}}]");
  check_count(loras.size(), "loras");
  for (size_t i = 0; i < loras.size(); ++i) {
    const std::string field = fmt::format("loras[{}]", i);
    if (!loras[i].is_object())
      refuse_field(field, "invalid_type", "{} must be an object, such as {{\"name\": \"detail\", \"scale\": 0.8}}",
                   field);
    const Fields fields(loras[i]);
    try {
      fields.refuse_others({"name", "scale", "sha256"});
      const auto name = fields.string("name", kMaxNameBytes);
      if (!name) refuse_field(field, "missing", "name is missing: say which LoRA");
      wishes.push_back({.field = field,
                        .name = *name,
                        .scale = fields.number("scale", -kMaxAdapterScale, kMaxAdapterScale).value_or(1),
                        .sha256 = fields.string("sha256", 64).value_or("")});
    } catch (const ApiError& error) {
      refuse_field(field, error.code, "{}: {}", field, error.what());
    }
  }
  return wishes;
}

TaggedPrompt parse_lora_tags(std::string_view prompt) {
  TaggedPrompt found;
  size_t done = 0;
  for (size_t begin = 0; (begin = next_tag(prompt, begin)) != std::string_view::npos;) {
    const size_t end = prompt.find('>', begin);
    if (end == std::string_view::npos) break;  // no tag, as A1111 reads it
    found.wishes.push_back(wish_of(prompt.substr(begin, end + 1 - begin)));
    check_count(found.wishes.size(), "prompt");
    add_text(found.prompt, prompt.substr(done, begin - done), done > 0);
    begin = done = end + 1;
  }
  add_text(found.prompt, prompt.substr(done), done > 0);
  if (done > 0) found.prompt.resize(found.prompt.find_last_not_of(kSpace) + 1);
  return found;
}

}  // namespace nostos::server
