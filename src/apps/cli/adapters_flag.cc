// Implements the flag --lora.
#include "apps/cli/adapters_flag.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <system_error>

#include "base/error.h"

namespace nostos::cli {

void add_adapters_flag(CLI::App& command, std::vector<std::string>& loras) {
  command
      .add_option(
          "--lora", loras,
          "LoRA, LoKr, LoHa or DoRA file whose changes the model has, with a factor after a colon (1); may come "
          "several times")
      ->type_name("FILE[:SCALE]")
      ->allow_extra_args(false);
}

std::vector<AdapterUse> adapters_of(const std::vector<std::string>& loras) {
  std::vector<AdapterUse> adapters;
  for (const std::string& given : loras) {
    if (given.empty() && loras.size() == 1) return {};
    AdapterUse use{.file = given};
    std::error_code ignored;
    if (const size_t colon = given.rfind(':'); colon != std::string::npos && !std::filesystem::exists(given, ignored)) {
      const char *begin = given.data() + colon + 1, *end = given.data() + given.size();
      const auto [stop, error] = std::from_chars(begin, end, use.scale);
      require(error == std::errc() && stop == end, ErrorKind::invalid_input,
              "--lora '{}': '{}' is no number; it must be FILE or FILE:SCALE", given, given.substr(colon + 1));
      use.file.resize(colon);
    }
    require(!use.file.empty(), ErrorKind::invalid_input, "--lora '{}' names no file; it must be FILE or FILE:SCALE",
            given);
    use.name = std::filesystem::path(use.file).stem().string();
    adapters.push_back(std::move(use));
  }
  return adapters;
}

}  // namespace nostos::cli
