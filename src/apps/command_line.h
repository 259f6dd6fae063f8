// Owns the whole command line: all commands with their flags. The program parses it; its manual is written from it.
#pragma once

namespace CLI {
class App;
}

namespace nostos {

/// Adds every command to `app`, which must be called nostos.
void add_command_line(CLI::App& app);

}  // namespace nostos
