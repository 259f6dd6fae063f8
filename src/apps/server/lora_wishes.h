// Owns how clients name LoRAs: the field `loras` of bodies in JSON, and A1111's tags in prompts.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace nostos::server {

/// A LoRA that a client names.
struct LoraWish {
  std::string field;  ///< that names it, for messages
  std::string name;
  double scale = 1;
  std::string sha256{};  ///< of the file that is meant; empty: whatever has the name
};

/// \param loras the field: a list of {"name", "scale", "sha256"}, of which the name must be there. Null: none
/// \throws ApiError 400 naming the element
std::vector<LoraWish> parse_loras(const nlohmann::json& loras);

struct TaggedPrompt {
  std::string prompt{};  ///< without the tags and the spaces around them
  std::vector<LoraWish> wishes{};
};

/// Takes tags such as <lora:name:0.8> out of a prompt. Of <lora:name:te:unet>, which A1111 has for a text encoder and a
/// transformer, the second number counts, as does `unet=` of <lora:name:te=1:unet=0.8>; without a number it is 1.
/// \throws ApiError 400 for a number that is none, and for too many tags
TaggedPrompt parse_lora_tags(std::string_view prompt);

}  // namespace nostos::server
