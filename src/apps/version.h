// Owns what the program says of how it was built.
#pragma once

#include <string>

namespace nostos {

/// \return three lines: name and version, the source's commit, and the features that were built in.
std::string version_text();

}  // namespace nostos
