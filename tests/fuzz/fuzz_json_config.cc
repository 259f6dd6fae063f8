// Fuzzes JSON configs: any bytes are refused as a damaged model, or give an object whose getters keep to what they say.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "io/json_config.h"

namespace {

using nostos::JsonConfig;

/// Calls `get`, letting through only what a damaged config may raise.
template <class Get>
void try_to(Get get) {
  try {
    get();
  } catch (const nostos::Error& error) {
    if (error.kind() != nostos::ErrorKind::model) std::abort();
  }
}

void read_all(const JsonConfig& config, int depth) {
  constexpr int64_t kMin = -5, kMax = int64_t{1} << 40;
  constexpr std::array<std::string_view, 2> kClasses{"AutoencoderKL", "Qwen3Model"};
  const auto in_range = [](int64_t value) {
    nostos::check(value >= kMin && value <= kMax, "an integer is in its range");
  };
  for (const std::string& field : config.fields()) {
    if (config.has(field) == config.is_null(field)) std::abort();
    try_to([&] { in_range(config.integer_or(field, 0, kMin, kMax)); });
    try_to([&] { nostos::check(std::isfinite(config.number_or(field, 0)), "a number is finite"); });
    try_to([&] { config.boolean_or(field, false); });
    try_to([&] { config.string_or(field, ""); });
    try_to([&] {
      for (const int64_t value : config.integers_or(field, {}, kMin, kMax)) in_range(value);
    });
    try_to([&] { config.numbers(field); });
    try_to([&] { config.strings_or(field, {}); });
    try_to([&] {
      if (const std::optional<JsonConfig> inner = config.object(field); inner && depth < 4) read_all(*inner, depth + 1);
    });
  }
  try_to([&] { config.class_name(kClasses); });
  try_to([&] { config.check_class(kClasses); });
  try_to([&] { config.require_unquantised(); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try_to([&] {
    const JsonConfig config = JsonConfig::parse({reinterpret_cast<const char*>(data), size}, "fuzz");
    read_all(config, 0);
    // What is written is read again as the same.
    const std::string text = config.dump();
    if (JsonConfig::parse(text, "fuzz").dump() != text) std::abort();
  });
  return 0;
}
