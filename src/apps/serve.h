// Owns the command `serve`, which assembles the server with the command line's flags, model and ranks.
#pragma once

namespace CLI {
class App;
}

namespace nostos {

/// Adds the command to `app`, as apps/cli/commands.h adds the others.
void add_serve_command(CLI::App& app);

}  // namespace nostos
