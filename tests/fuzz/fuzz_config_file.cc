// Fuzzes flags from outside: a TOML file of `--config`, and the same bytes as the value of each kind of flag on the
// command line. They are refused as bad input, or every flag has a value that it may have.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/cli/config_file.h"
#include "base/error.h"

namespace {

/// A command with one flag of each kind that the program has.
struct Command {
  CLI::App app{"fuzz", "draw"};
  std::optional<std::string> prompt;
  std::optional<int64_t> height;
  std::optional<double> scale;
  std::optional<std::vector<double>> sigmas;
  int64_t threads = 0;
  bool json = false;
  std::string config;

  Command() {
    app.add_option("--prompt", prompt);
    app.add_option("--height", height);
    app.add_option("--guidance-scale", scale);
    app.add_option("--sigmas", sigmas)->delimiter(',');
    app.add_option("--threads", threads)->check(CLI::Range(int64_t{0}, int64_t{4096}));
    app.add_flag("--json", json);
    app.add_option("--config", config)->configurable(false);
  }
};

/// Runs `action`, letting through only what bad input may raise, then looks at what the command has.
template <class Action>
void expect_flags_or_bad_input(Command& command, const Action& action) {
  try {
    action();
  } catch (const nostos::Error& error) {
    nostos::check(error.kind() == nostos::ErrorKind::invalid_input, "a bad file is bad input");
    return;
  } catch (const CLI::ParseError&) {
    return;
  }
  nostos::check(command.threads >= 0 && command.threads <= 4096, "a flag keeps to its range");
  nostos::check(command.config.empty(), "a file names no other");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  Command from_file;
  expect_flags_or_bad_input(from_file, [&] { nostos::cli::apply_config(from_file.app, text, "fuzz.toml"); });
  for (const char* flag : {"--prompt", "--height", "--guidance-scale", "--sigmas", "--threads", "--json"}) {
    Command from_line;
    expect_flags_or_bad_input(from_line, [&] { from_line.app.parse(std::vector{std::string(flag) + "=" + text}); });
  }
  return 0;
}
