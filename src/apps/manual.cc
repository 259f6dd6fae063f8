// Owns the program nostos_manual, which writes the manual pages and the completions of shells from the command line.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/error_report.h"
#include "apps/command_line.h"
#include "io/file.h"

namespace nostos {
namespace {

/// \return `text` with each of the characters `what` after `before`.
std::string escaped(std::string_view text, std::string_view what, std::string_view before) {
  std::string result;
  for (const char c : text) {
    if (what.find(c) != std::string_view::npos) result += before;
    result += c;
  }
  return result;
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size()))
    text.replace(at, what.size(), by);
  return text;
}

/// \return the text as troff prints it.
std::string roff(const std::string& text) {
  const std::string safe = replaced(replaced(text, "\\", "\\e"), "-", "\\-");
  return safe.starts_with('.') || safe.starts_with('\'') ? "\\&" + safe : safe;
}

/// \return the beginning of a help text, as menus show it.
std::string brief(const std::string& help) {
  constexpr size_t kMost = 70;
  std::string text = help.substr(0, help.find(';'));
  if (text.size() <= kMost) return text;
  text.resize(text.rfind(' ', kMost));
  return text + " ...";
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

/// \return all options with dashes.
std::vector<const CLI::Option*> flags_of(const CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return option->nonpositional(); });
}

std::vector<const CLI::Option*> positionals_of(const CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return option->get_positional(); });
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// \return the option's names, e.g. {"-h", "--help"}.
std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

std::string value_of(const CLI::Option& option) {
  return option.get_type_name().empty() ? "VALUE" : option.get_type_name();
}

std::string man_head(const std::string& name, const std::string& description) {
  return fmt::format(".TH {} 1 \"\" \"nostos {}\" \"nostos\"\n.SH NAME\n{} \\- {}\n", replaced(name, "-", "\\-"),
                     NOSTOS_VERSION, roff(name), roff(description));
}

std::string man_options(const CLI::App& command) {
  std::string page;
  for (const CLI::Option* option : positionals_of(command))
    page += fmt::format(".TP\n\\fI{}\\fR\n{}\n", roff(option->get_name(true)), roff(option->get_description()));
  for (const CLI::Option* option : flags_of(command)) {
    std::string names;
    for (const std::string& name : names_of(*option))
      names += (names.empty() ? "\\fB" : ", \\fB") + roff(name) + "\\fR";
    const std::string value = takes_value(*option) ? " \\fI" + roff(value_of(*option)) + "\\fR" : "";
    page += fmt::format(".TP\n{}{}\n{}\n", names, value, roff(option->get_description()));
  }
  return page;
}

std::string positional(const CLI::Option& option) { return "\\fI" + roff(option.get_name(true)) + "\\fR"; }

std::string man_page(const CLI::App& command) {
  std::string page = man_head("nostos-" + command.get_name(), command.get_description());
  page += fmt::format(".SH SYNOPSIS\n\\fBnostos {}\\fR [\\fIOPTIONS\\fR]", command.get_name());
  for (const CLI::Option* option : positionals_of(command))
    page += " " + (option->get_required() ? positional(*option) : "[" + positional(*option) + "]");
  return page + "\n.SH OPTIONS\n" + man_options(command) + ".SH SEE ALSO\n\\fBnostos\\fR(1)\n";
}

std::string man_overview(const CLI::App& app) {
  std::string page = man_head("nostos", "draw pictures from text, and edit pictures");
  page += ".SH SYNOPSIS\n\\fBnostos\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n";
  page += roff(app.get_description()) + "\n.SH COMMANDS\n";
  for (const CLI::App* command : commands_of(app))
    page += fmt::format(".TP\n\\fBnostos\\-{}\\fR(1)\n{}\n", command->get_name(), roff(command->get_description()));
  page += ".SH OPTIONS\n" + man_options(app) + ".SH EXIT STATUS\n";
  for (const auto& [code, meaning] : {std::pair{0, "done"},
                                      {1, "internal error, full disk, a hub that cannot be reached"},
                                      {2, "what the user can mend: command line, request, file, model, device"},
                                      {3, "out of memory"},
                                      {4, "another rank was killed, or did not come in time"},
                                      {130, "interrupted"}})
    page += fmt::format(".TP\n\\fB{}\\fR\n{}\n", code, meaning);
  return page;
}

std::string joined_names(const CLI::App& command) {
  std::string words;
  for (const CLI::Option* option : flags_of(command))
    for (const std::string& name : names_of(*option)) words += (words.empty() ? "" : " ") + name;
  return words;
}

std::string bash_completion(const CLI::App& app) {
  std::string commands, cases;
  for (const CLI::App* command : commands_of(app)) {
    commands += (commands.empty() ? "" : " ") + command->get_name();
    cases += fmt::format("    {}) words='{}' ;;\n", command->get_name(), joined_names(*command));
  }
  return fmt::format(
      "# bash completion of nostos\n"
      "_nostos() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} words\n"
      "  [ \"$COMP_CWORD\" -gt 1 ] || command=\n"
      "  case $command in\n{}    *) words='{} {}' ;;\n"
      "  esac\n"
      "  COMPREPLY=()\n"
      "  if [[ $COMP_CWORD -eq 1 || $current == -* ]]; then COMPREPLY=($(compgen -W \"$words\" -- \"$current\")); fi\n"
      "}}\n"
      "complete -o default -F _nostos nostos\n",
      cases, commands, joined_names(app));
}

std::string zsh_arguments(const CLI::App& command) {
  std::string lines;
  const auto quoted = [](const std::string& text) { return replaced(escaped(text, "[]:\\", "\\"), "'", "'\\''"); };
  for (const CLI::Option* option : flags_of(command))
    for (const std::string& name : names_of(*option))
      lines += fmt::format(" \\\n        '*{}[{}]{}'", name, quoted(brief(option->get_description())),
                           takes_value(*option) ? ":value:_files" : "");
  return lines;
}

std::string zsh_completion(const CLI::App& app) {
  std::string commands, cases;
  for (const CLI::App* command : commands_of(app)) {
    const std::string help = replaced(escaped(brief(command->get_description()), ":\\", "\\"), "'", "'\\''");
    commands += fmt::format("    '{}:{}'\n", command->get_name(), help);
    cases += fmt::format("    {})\n      _arguments{} \\\n        '*:file:_files' ;;\n", command->get_name(),
                         zsh_arguments(*command));
  }
  return fmt::format(
      "#compdef nostos\n# zsh completion of nostos\n_nostos() {{\n  local -a commands=(\n{}  )\n"
      "  if (( CURRENT == 2 )); then\n    _describe command commands\n    return\n  fi\n"
      "  local name=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $name in\n{}  esac\n}}\n_nostos \"$@\"\n",
      commands, cases);
}

std::string fish_completion(const CLI::App& app) {
  std::string lines = "# fish completion of nostos\n";
  const auto quoted = [](const std::string& text) { return "'" + escaped(text, "'\\", "\\") + "'"; };
  for (const CLI::App* command : commands_of(app)) {
    lines += fmt::format("complete -c nostos -n __fish_use_subcommand -f -a {} -d {}\n", command->get_name(),
                         quoted(brief(command->get_description())));
    for (const CLI::Option* option : flags_of(*command))
      for (const std::string& name : option->get_lnames())
        lines +=
            fmt::format("complete -c nostos -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n", command->get_name(),
                        name, takes_value(*option) ? " -r" : "", quoted(brief(option->get_description())));
  }
  return lines;
}

void write_manual(const std::filesystem::path& folder) {
  CLI::App app("", "nostos");
  add_command_line(app);
  const auto write = [&](const std::string& name, const std::string& text) {
    write_file_atomically(folder / name, {reinterpret_cast<const uint8_t*>(text.data()), text.size()},
                          Survives::process);
  };
  write("nostos.1", man_overview(app));
  for (const CLI::App* command : commands_of(app)) write("nostos-" + command->get_name() + ".1", man_page(*command));
  write("nostos.bash", bash_completion(app));
  write("nostos.zsh", zsh_completion(app));
  write("nostos.fish", fish_completion(app));
}

}  // namespace
}  // namespace nostos

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: nostos_manual FOLDER\n");
    return 2;
  }
  try {
    nostos::write_manual(argv[1]);
    return 0;
  } catch (...) {
    return nostos::cli::report_error(std::current_exception());
  }
}
