// Tests what a terminal may be sent by the environment.
#include "base/terminal.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace nostos {
namespace {

using Environment = std::map<std::string, std::string>;

EnvironmentVariable in(const Environment& environment) {
  return [&environment](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  };
}

TEST(Terminal, UnderstandsEscapeSequencesUnlessItIsDumbOrUnknown) {
  for (const Environment& dumb : {Environment{}, Environment{{"TERM", ""}}, Environment{{"TERM", "dumb"}}}) {
    EXPECT_FALSE(has_escape_sequences(in(dumb)));
    EXPECT_FALSE(wants_colours(in(dumb)));
  }
  EXPECT_TRUE(has_escape_sequences(in({{"TERM", "xterm"}})));
}

TEST(Terminal, HasColoursUnlessNoColorHasAValue) {
  EXPECT_TRUE(wants_colours(in({{"TERM", "xterm"}})));
  EXPECT_TRUE(wants_colours(in({{"TERM", "xterm"}, {"NO_COLOR", ""}})));
  for (const char* value : {"1", "0", "false"}) {
    EXPECT_FALSE(wants_colours(in({{"TERM", "xterm"}, {"NO_COLOR", value}})));
    EXPECT_TRUE(has_escape_sequences(in({{"TERM", "xterm"}, {"NO_COLOR", value}})));
  }
}

TEST(Terminal, GetsNoOrdersFromForeignTexts) {
  EXPECT_EQ(without_controls("a\x1b[31mred\x07\r\x7f\tb\n"), "a?[31mred???\tb\n");
  EXPECT_EQ(without_controls(std::string_view("\0x", 2)), "?x");
  EXPECT_EQ(without_controls("\xc2\x9b"
                             "31m \xc2\xa0 \xc3\xbc \xe2\x98\x83 \xc2"),
            "?31m \xc2\xa0 \xc3\xbc \xe2\x98\x83 \xc2");
}

TEST(Terminal, GetsNoMegabytesOfAName) {
  const std::string path(4096, 'p'), name(1'000'000, 'n');
  EXPECT_EQ(shown_message(path + ": tensor '" + name + " is " + name + "\x1b"),
            path + ": tensor '" + std::string(199, 'n') + "... is " + std::string(200, 'n') + "...");
  EXPECT_EQ(shown_message(""), "");
  EXPECT_EQ(shown_message("a  b\n"), "a  b\n");
}

}  // namespace
}  // namespace nostos
