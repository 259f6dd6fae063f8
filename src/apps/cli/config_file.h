// Owns `--config file.toml`: flags read from a file.
#pragma once

#include <filesystem>

namespace CLI {
class App;
}

namespace nostos::cli {

/// Gives every flag of `command` that stands in the TOML `file` and not on the command line its value from the file. A
/// key is a flag's long name without dashes in front; lists are arrays, switches are booleans. \throws Error
/// invalid_input naming file, line and key: unreadable, no TOML, a key that is no flag, a value of the wrong kind.
/// \throws CLI::ParseError if the flag does not take the value.
void apply_config_file(CLI::App& command, const std::filesystem::path& file);

}  // namespace nostos::cli
