// Tests flags read from TOML files.
#include "apps/cli/config_file.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <optional>

#include "base/error.h"

namespace nostos::cli {
namespace {

/// A command with one flag of each kind.
struct Command {
  CLI::App app{"test", "draw"};
  std::optional<std::string> prompt;
  std::optional<int64_t> height;
  std::optional<double> scale;
  std::optional<std::vector<double>> sigmas;
  bool json = false;
  std::string config;

  Command() {
    app.add_option("--prompt", prompt);
    app.add_option("--height", height);
    app.add_option("--guidance-scale", scale);
    app.add_option("--sigmas", sigmas);
    app.add_flag("--json", json);
    app.add_option("--config", config)->configurable(false);
  }
};

std::filesystem::path write_config(const std::string& text) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "nostos_config_file_test.toml";
  std::ofstream(file) << text;
  return file;
}

void apply_file(CLI::App& command, const std::filesystem::path& file) {
  apply_config(command, read_config_file(file), file.string());
}

std::string error_of(const std::string& text) {
  Command command;
  try {
    apply_file(command.app, write_config(text));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_input);
    return error.what();
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

TEST(ConfigFile, SetsFlagsOfEveryKind) {
  Command command;
  apply_file(command.app, write_config("# drawn often\n"
                                       "prompt = \"a, [b] # \\\"c\\\" = d\\n海\"\n"
                                       "height = 512 # pixels\n"
                                       "guidance-scale = 0.1\n"
                                       "sigmas = [1, 0.75,\n  0.5]\n"
                                       "json = true\n"));
  EXPECT_EQ(command.prompt, "a, [b] # \"c\" = d\n海");
  EXPECT_EQ(command.height, 512);
  EXPECT_EQ(command.scale, 0.1);
  EXPECT_EQ(command.sigmas, (std::vector<double>{1, 0.75, 0.5}));
  EXPECT_TRUE(command.json);
}

TEST(ConfigFile, TheCommandLineGoesFirst) {
  Command command;
  command.app.parse("--height 64");
  apply_file(command.app, write_config("height = 512\nprompt = ''\njson = false\n"));
  EXPECT_EQ(command.height, 64);
  EXPECT_EQ(command.prompt, "");
  EXPECT_FALSE(command.json);
}

TEST(ConfigFile, ErrorsNameFileLineAndKey) {
  EXPECT_NE(error_of("prompt = \"a\"\nheigth = 3\n").find(".toml:2: heigth"), std::string::npos)
      << error_of("\nheigth = 3\n");
  EXPECT_NE(error_of("config = \"other.toml\"\n").find("no such flag"), std::string::npos);
  EXPECT_NE(error_of("help = true\n").find("no such flag"), std::string::npos);
  EXPECT_NE(error_of("prompt = \n").find(".toml:1"), std::string::npos);
  EXPECT_NE(error_of("[section]\nheight = 3\n").find("section"), std::string::npos);
  EXPECT_NE(error_of("json = 3\n").find("true or false"), std::string::npos);
  EXPECT_NE(error_of("sigmas = [[1]]\n").find("sigmas"), std::string::npos);
  EXPECT_NE(error_of("height = \"tall\"\n").find("height"), std::string::npos);
  EXPECT_NE(error_of("height = [1, 2]\n").find("height"), std::string::npos);
  EXPECT_NE(error_of("prompt = 2026-11-24\n").find("prompt"), std::string::npos);
}

TEST(ConfigFile, AMissingFileIsNamed) {
  Command command;
  EXPECT_THROW(apply_file(command.app, "/nowhere/x.toml"), Error);
}

}  // namespace
}  // namespace nostos::cli
