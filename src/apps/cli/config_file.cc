// Implements the reading of flags from TOML.
#include "apps/cli/config_file.h"

#include <toml++/toml.h>
#include <CLI/CLI.hpp>

#include <vector>

#include "base/error.h"
#include "io/file.h"

namespace nostos::cli {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

/// \return what the user would have typed for the value.
std::vector<std::string> words(const toml::node& value, const std::string& where) {
  if (const auto* text = value.as_string()) return {text->get()};
  if (const auto* integer = value.as_integer()) return {std::to_string(integer->get())};
  if (const auto* number = value.as_floating_point()) return {fmt::format("{}", number->get())};
  if (const auto* boolean = value.as_boolean()) return {boolean->get() ? "true" : "false"};
  const auto* list = value.as_array();
  require(list != nullptr, ErrorKind::invalid_input, "{}: a text, number, boolean or list of these is wanted", where);
  std::vector<std::string> all;
  for (const toml::node& item : *list) {
    require(item.is_value(), ErrorKind::invalid_input, "{}: a list may hold texts and numbers alone", where);
    all.push_back(words(item, where).front());
  }
  return all;
}

}  // namespace

std::string read_config_file(const std::filesystem::path& file) { return read_file(file, kMaxConfigBytes); }

void apply_config(CLI::App& command, const std::string& config, const std::string& file) {
  toml::table table;
  try {
    table = toml::parse(config, file);
  } catch (const toml::parse_error& error) {
    const bool is_too_large = error.description().find("64 bits") != std::string_view::npos;
    fail(ErrorKind::invalid_input, "{}:{}: {}{}", file, error.source().begin.line, error.description(),
         is_too_large ? "; larger numbers stand in quotes" : "");
  }
  for (const auto& [key, value] : table) {
    const std::string where = fmt::format("{}:{}: {}", file, value.source().begin.line, key.str());
    CLI::Option* option = command.get_option_no_throw("--" + std::string(key.str()));
    require(option != nullptr && option->get_configurable(), ErrorKind::invalid_input,
            "{}: no such flag of `nostos {}`; keys are its long flags without the dashes", where, command.get_name());
    const bool is_switch = option->get_expected_max() == 0;
    require(!is_switch || value.is_boolean(), ErrorKind::invalid_input, "{}: true or false is wanted", where);
    if (option->count() > 0) continue;
    option->add_result(words(value, where));
    option->run_callback();
  }
}

}  // namespace nostos::cli
