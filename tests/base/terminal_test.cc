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

}  // namespace
}  // namespace nostos
