// Owns `--config file.toml`: flags read from a file.
#pragma once

#include <filesystem>
#include <string>

namespace CLI {
class App;
}

namespace nostos::cli {

/// \return the text of a config file. \throws Error invalid_input naming the file that cannot be read
std::string read_config_file(const std::filesystem::path& file);

/// Gives every flag of `command` that stands in the TOML text `config` and not on the command line its value from the
/// file. A key is a flag's long name without dashes in front; lists are arrays, switches are booleans. \param file
/// names the text in messages. \throws Error invalid_input naming file, line and key: no TOML, a key that is no flag, a
/// value of the wrong kind.
/// \throws CLI::ParseError if the flag does not take the value.
void apply_config(CLI::App& command, const std::string& config, const std::string& file);

}  // namespace nostos::cli
