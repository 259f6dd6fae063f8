// Implements reading the hub's place from the environment.
#include "hub/hub_place.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "io/environment.h"
#include "io/file.h"
#include "io/model_folder.h"

namespace nostos {
namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool is_on(const char* name) {
  std::string value = variable(name);
  std::ranges::transform(value, value.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string without_space_around(std::string text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  while (!text.empty() && is_space(static_cast<unsigned char>(text.back()))) text.pop_back();
  text.erase(text.begin(), std::ranges::find_if_not(text, is_space));
  return text;
}

void find_token(HubPlace& place) {
  if (is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return;
  constexpr size_t kMostBytes = 4096;
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    place.token = without_space_around(variable(name));
    place.token_origin = name;
    if (!place.token.empty()) break;
  }
  if (place.token.empty()) {
    std::filesystem::path file = path_from_environment("HF_TOKEN_PATH");
    if (file.empty()) file = hugging_face_home() / "token";
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(file, ignored)) return;
    place.token = without_space_around(read_file(file, kMostBytes));
    place.token_origin = "'" + file.string() + "'";
  }
  const bool is_visible = std::ranges::all_of(place.token, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  require(is_visible, ErrorKind::invalid_input,
          "the token in {} holds spaces or control characters, it must be one word", place.token_origin);
}

}  // namespace

HubPlace hub_from_environment() {
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})
    require(!is_on(name), ErrorKind::invalid_input, "{}={} forbids the network: unset it to pull a model", name,
            variable(name));
  HubPlace place;
  if (const std::string endpoint = variable("HF_ENDPOINT"); !endpoint.empty()) place.endpoint = endpoint;
  const bool is_web = place.endpoint.starts_with("https://") || place.endpoint.starts_with("http://");
  require(is_web, ErrorKind::invalid_input, "HF_ENDPOINT is '{}', must begin with https:// or http://", place.endpoint);
  while (place.endpoint.ends_with('/')) place.endpoint.pop_back();
  if (const std::string patience = variable("HF_HUB_DOWNLOAD_TIMEOUT"); !patience.empty()) {
    constexpr double kMost = 86400;
    const char* const end = patience.data() + patience.size();
    const auto [stop, error] = std::from_chars(patience.data(), end, place.patience_s);
    require(error == std::errc() && stop == end && place.patience_s >= 1 && place.patience_s <= kMost,
            ErrorKind::invalid_input, "HF_HUB_DOWNLOAD_TIMEOUT is '{}', must be seconds from 1 to {}", patience, kMost);
  }
  place.authorities = variable("SSL_CERT_FILE");
  find_token(place);
  return place;
}

}  // namespace nostos
